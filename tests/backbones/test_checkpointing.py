import copy

import pytest
import torch

from tests.helpers.backbones import NARROW, SWIN, build

SMALL = [("resnet18", {}), ("resnest14d", {}), (SWIN, {**NARROW, "drop_path_rate": 0.5})]
IDS = ["resnet", "resnest", "swin"]


def step(backbone, image):
    """Gradients of one training step, buffers after it, and bytes saved for its backward pass."""
    saved = {}

    def save(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = sum(value.square().mean() for value in backbone.train()(image).values())
    total = sum(saved.values())
    loss.backward()
    gradients = {name: value.grad for name, value in backbone.named_parameters() if value.requires_grad}
    return gradients, dict(backbone.named_buffers()), total


@pytest.mark.parametrize("frozen_stages", [0, 2])
@pytest.mark.parametrize("norm", ["batch", "frozen-batch"])
@pytest.mark.parametrize(("name", "options"), SMALL, ids=IDS)
def test_less_memory_gives_the_same_numbers(name, options, norm, frozen_stages):
    settings = {"options": options, "norm": norm, "frozen_stages": frozen_stages}
    plain, checkpointed = build(name, **settings), build(name, checkpointing=True, **settings)
    checkpointed.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 96, 128)
    gradients, buffers, memory = step(checkpointed, image)
    expected_gradients, expected_buffers, plain_memory = step(plain, image)
    assert memory < 0.6 * plain_memory
    assert gradients.keys() == expected_gradients.keys()
    for key, value in expected_gradients.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-5, atol=1e-6, msg=key)
    for key, value in expected_buffers.items():
        torch.testing.assert_close(buffers[key], value, rtol=0, atol=0, msg=key)


def test_synchronized_batch_norm_counts_each_batch_once():
    # torch's SyncBatchNorm needs its count of batches, also in the recomputation.
    backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(build("resnet18", norm="batch", checkpointing=True))
    _, buffers, _ = step(backbone, torch.randn(2, 3, 64, 64))
    assert {int(value) for name, value in buffers.items() if name.endswith("num_batches_tracked")} == {1}


def test_names_copies_and_momentum_are_those_without_checkpointing():
    checkpointed = build("resnet18", checkpointing=True)
    assert checkpointed.state_dict().keys() == build("resnet18").state_dict().keys()
    duplicate = copy.deepcopy(checkpointed)
    step(duplicate, torch.randn(2, 3, 64, 64))
    assert {module.momentum for module in duplicate.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}
    assert all(value.grad is None for value in checkpointed.parameters())
