"""Transposed convolution and pixel shuffle."""

import pytest
import torch
from torch.nn import functional as F

from afictl import build_interpolator


@pytest.mark.parametrize("kind", ["transposed-conv", "pixel-shuffle"])
@pytest.mark.parametrize("size", [(1, 1), (4, 7)])
def test_starts_as_bilinear_up_to_the_border(kind, size):
    coarse = torch.randn(2, 6, *size)
    expected = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(build_interpolator(kind, 6)(coarse), expected)


@pytest.mark.parametrize("kind", ["transposed-conv", "pixel-shuffle"])
def test_a_fine_pixel_depends_on_its_coarse_neighbours_alone(kind):
    interpolator = build_interpolator(kind, 1)
    torch.nn.init.ones_(interpolator.conv.weight)
    coarse = torch.zeros(1, 1, 7, 7)
    coarse[0, 0, 3, 3] = 1
    reach = 1 if kind == "transposed-conv" else 2  # 2x2 neighbours, or 3x3
    dependent = interpolator(coarse)[0, 0].nonzero()
    assert dependent.amin(0).tolist() == [6 - reach] * 2
    assert dependent.amax(0).tolist() == [7 + reach] * 2


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("transposed-conv", 256 * 256 * 16 + 256), ("pixel-shuffle", 256 * 1024 * 9 + 1024)],
)
def test_has_as_many_parameters_as_its_kernel(kind, parameters):
    assert sum(p.numel() for p in build_interpolator(kind, 256).parameters()) == parameters
