"""Batch norms of several devices."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from afictl.training.norms import synchronize_norms


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_norms_of_several_devices_keep_names_values_and_what_is_trained(device):
    model = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3, momentum=0.01), nn.Sequential(nn.BatchNorm2d(2)))
    model[0].running_mean.normal_()
    model[1].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    synchronize_norms(SimpleNamespace(world_size=2, device=torch.device(device)), model)
    assert type(model[0]) is type(model[1][0]) is not nn.BatchNorm2d
    assert (model[0].eps, model[0].momentum) == (1e-3, 0.01)
    assert [value.requires_grad for value in model.parameters()] == [True, True, False, False]
    assert model.state_dict().keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)


def test_on_gpus_a_rank_without_regions_speaks_the_number_format_of_the_others():
    model = nn.Sequential(nn.BatchNorm2d(3))
    synchronize_norms(SimpleNamespace(world_size=2, device=torch.device("cuda")), model)
    assert model(torch.zeros(0, 3, 7, 7, dtype=torch.bfloat16)).dtype == torch.float32
    assert model(torch.zeros(2, 3, 7, 7, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.fixture
def alone(tmp_path):
    """A group of this one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_on_cpus_it_computes_as_torchs_own_without_a_word(alone):
    """Values, gradients and running statistics of one process; those of two are in ``test_two_processes``."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3))
    synced = copy.deepcopy(plain)
    synchronize_norms(SimpleNamespace(world_size=2, device=torch.device("cpu")), synced)
    images, weights = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (plain, synced):
            given = images.clone().requires_grad_()
            answer = module(given)
            (answer * weights).sum().backward()
            seen.append([answer, given.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    for ours, theirs in zip(*reversed(seen), strict=True):
        torch.testing.assert_close(ours, theirs)
