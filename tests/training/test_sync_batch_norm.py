"""Batch norm over all ranks."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from afictl.training.sync_batch_norm import synchronize_batch_norms


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_synchronized_norms_keep_names_values_and_trainability(device):
    model = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3, momentum=0.01), nn.Sequential(nn.BatchNorm2d(2)))
    model[0].running_mean.normal_()
    model[1].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    synchronize_batch_norms(SimpleNamespace(world_size=2, device=torch.device(device)), model)
    assert type(model[0]) is type(model[1][0]) is not nn.BatchNorm2d
    assert (model[0].eps, model[0].momentum) == (1e-3, 0.01)
    assert [value.requires_grad for value in model.parameters()] == [True, True, False, False]
    assert model.state_dict().keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


def test_on_gpus_an_empty_batch_is_float32_as_the_statistics_of_other_ranks():
    model = nn.Sequential(nn.BatchNorm2d(3))
    synchronize_batch_norms(SimpleNamespace(world_size=2, device=torch.device("cuda")), model)
    assert model(torch.zeros(0, 3, 7, 7, dtype=torch.bfloat16)).dtype == torch.float32
    assert model(torch.zeros(2, 3, 7, 7, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.fixture
def process_group(tmp_path):
    """A gloo group of this one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
def test_on_cpus_it_computes_as_torch_without_a_warning(process_group, kind):
    """Values, gradients and running statistics of one process; those of two are in ``test_two_processes_training``."""
    torch.manual_seed(0)
    plain = nn.Sequential(kind(3, momentum=0.3))
    synced = copy.deepcopy(plain)
    synchronize_batch_norms(SimpleNamespace(world_size=2, device=torch.device("cpu")), synced)
    assert type(synced[0]) is not kind
    images, weights = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)

    def tensors(module):
        inputs = images.clone().requires_grad_()
        outputs = module(inputs)
        (outputs * weights).sum().backward()
        return [outputs, inputs.grad, *(parameter.grad for parameter in module.parameters()), *module.buffers()]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(tensors(synced), tensors(plain))
