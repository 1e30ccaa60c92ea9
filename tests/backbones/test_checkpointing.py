import copy

import pytest
import torch

from tests.helpers.backbones import NARROW, SWIN, build

SMALL = [("resnet18", {}), ("resnest14d", {}), (SWIN, {**NARROW, "drop_path_rate": 0.5})]
IDS = ["resnet", "resnest", "swin"]


def step(backbone, image):
    """Gradients of one training step, buffers after it, and bytes that its graph kept."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(value.square().mean() for value in backbone.train()(image).values())
    total = sum(kept.values())
    loss.backward()
    gradients = {name: value.grad for name, value in backbone.named_parameters() if value.requires_grad}
    return gradients, dict(backbone.named_buffers()), total


@pytest.mark.parametrize("frozen_stages", [0, 2])
@pytest.mark.parametrize("norm", ["batch", "frozen-batch"])
@pytest.mark.parametrize(("name", "options"), SMALL, ids=IDS)
def test_less_is_kept_and_every_number_stays(name, options, norm, frozen_stages):
    settings = {"options": options, "norm": norm, "frozen_stages": frozen_stages}
    usual, saving = build(name, **settings), build(name, checkpointing=True, **settings)
    saving.load_state_dict(usual.state_dict())
    image = torch.randn(2, 3, 96, 128)
    (gradients, buffers, kept), (others, after, less) = step(usual, image), step(saving, image)
    assert less < 0.6 * kept
    assert gradients.keys() == others.keys()
    for key, value in gradients.items():
        torch.testing.assert_close(others[key], value, rtol=1e-5, atol=1e-6, msg=key)
    for key, value in buffers.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, msg=key)


def test_batch_norm_of_several_devices_is_served():
    # torch's insists on its count of batches, also in the second computation.
    backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build("resnet18", norm="batch", checkpointing=True))
    _, buffers, _ = step(backbone, torch.randn(2, 3, 64, 64))
    assert {int(value) for name, value in buffers.items() if name.endswith("num_batches_tracked")} == {1}


def test_names_copies_and_momentum_are_as_without_it():
    saving = build("resnet18", checkpointing=True)
    assert saving.state_dict().keys() == build("resnet18").state_dict().keys()
    again = copy.deepcopy(saving)
    step(again, torch.randn(2, 3, 64, 64))
    assert {module.momentum for module in again.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}
    assert all(value.grad is None for value in saving.parameters())
