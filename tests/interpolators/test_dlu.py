import pytest
import torch
from torch.nn import functional as F

from afictl import build_interpolator
from tests.helpers import reference_loops as loops


@torch.no_grad()
def test_equals_the_definition_of_the_paper():
    """Each fine pixel samples its kernel from those of the coarse pixels, then takes the softmax, as CARAFE."""
    torch.manual_seed(0)
    dlu = loops.randomise(build_interpolator("dlu", 6, up_kernel=3, compressed_channels=4).double())
    coarse = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    sources, offset = dlu.encode(dlu.compress(coarse)), F.pixel_shuffle(dlu.offset(dlu.compress(coarse)), 2)
    kernels = coarse.new_zeros(2, 9, 6, 8)
    for i, y, x in loops.fine_pixels(coarse):
        dx, dy = offset[i, :, y, x].tolist()
        kernels[i, :, y, x] = loops.sampled(sources[i], (y - 0.5) / 2 + dy, (x - 0.5) / 2 + dx).softmax(0)
    torch.testing.assert_close(dlu(coarse), loops.reassembled(coarse, kernels))


def test_parameter_count_is_the_published_one():
    def parameters(factor):
        """Compression, one kernel, and x and y of factor x factor pixels, 3x3 convolutions."""
        return 256 * 64 + 64 + (64 * 9 + 1) * (25 + 2 * factor**2)

    def carafe(factor):
        return 256 * 64 + 64 + (64 * 9 + 1) * 25 * factor**2

    assert sum(p.numel() for p in build_interpolator("dlu", 256).parameters()) == parameters(2) == 35_489
    # The paper: 91 % fewer than CARAFE for a factor of 16; the authors' table: 0.6 MB, CARAFE 1.2, four modules.
    assert round(100 * (1 - parameters(16) / carafe(16))) == 91
    assert [round(4 * 4 * count(2) / 1e6, 1) for count in (parameters, carafe)] == [0.6, 1.2]


def test_fresh_interpolator_is_nearly_a_5x5_mean():
    torch.manual_seed(0)
    coarse = torch.randn(1, 8, 6, 7)
    mean = F.avg_pool2d(coarse, 5, stride=1, padding=2)
    torch.testing.assert_close(
        build_interpolator("dlu", 8)(coarse), F.interpolate(mean, scale_factor=2), atol=0.02, rtol=0
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_kernels_at_points_that_are_not_finite_are_nan(value):
    dlu = build_interpolator("dlu", 4)
    with torch.no_grad():
        dlu.offset.bias[0] = value
    coarse = torch.randn(1, 4, 3, 4, requires_grad=True)
    enlarged = dlu(coarse)
    assert enlarged.isnan().all()
    enlarged.sum().backward()
