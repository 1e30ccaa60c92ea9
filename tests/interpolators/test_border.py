import pytest
import torch
from afictl.interpolators.border import repeat_border
from torch.nn import functional as F


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3)])
def test_equals_padding_by_replication(size):
    maps = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = F.pad(maps, (1, 1, 1, 1), mode="replicate")
    weights = torch.randn_like(expected)
    assert torch.equal(repeat_border(maps), expected)
    gradients = [torch.autograd.grad((padded * weights).sum(), maps) for padded in (repeat_border(maps), expected)]
    torch.testing.assert_close(*gradients)
