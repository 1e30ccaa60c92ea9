import pytest
import torch
from torch import nn
from torch.nn import functional as F

from afictl import build_interpolator
from afictl.comparison.cost.profiling import LiveMemory
from tests.helpers import reference_loops as loops


@pytest.mark.parametrize("options", [{}, {"up_kernel": 3, "encoder_kernel": 1, "compressed_channels": 4}])
def test_equals_the_definition_of_the_paper(options):
    torch.manual_seed(0)
    carafe = loops.randomise(build_interpolator("carafe", 6, **options))
    coarse = torch.randn(2, 6, 3, 4)
    with torch.no_grad():
        logits = F.pixel_shuffle(carafe.encode(carafe.compress(coarse)), 2)
        torch.testing.assert_close(carafe(coarse), loops.reassembled(coarse, logits.softmax(1)))


def test_parameter_count_is_the_published_one():
    carafe = build_interpolator("carafe", 256)
    # +0.22 M for the three steps of a pyramid, as in SAPA's table
    assert sum(p.numel() for p in carafe.parameters()) == 256 * 64 + 64 + 64 * 100 * 9 + 100 == 74_148


def test_fresh_interpolator_is_nearly_a_5x5_mean():
    torch.manual_seed(0)
    coarse = torch.randn(1, 8, 6, 7)
    mean = F.avg_pool2d(coarse, 5, stride=1, padding=2)
    torch.testing.assert_close(
        build_interpolator("carafe", 8)(coarse), F.interpolate(mean, scale_factor=2), atol=0.02, rtol=0
    )


def test_peak_memory_is_below_twice_the_output():
    carafe = build_interpolator("carafe", 256)
    coarse = torch.randn(1, 256, 100, 168)
    with torch.no_grad(), LiveMemory() as memory:
        enlarged = carafe(coarse)
    assert memory.live == enlarged.nbytes
    assert enlarged.nbytes < memory.peak < 2 * enlarged.nbytes


def test_backward_pass_saves_no_product():
    carafe = build_interpolator("carafe", 128)
    coarse = nn.Parameter(torch.randn(1, 128, 25, 42))
    with LiveMemory() as memory:
        enlarged = carafe(coarse)
        saved = memory.live - enlarged.nbytes
        enlarged.backward(torch.ones_like(enlarged))
    # the compressed map, the kernels and nothing of the size of the 25 neighbourhoods
    assert saved < 0.5 * enlarged.nbytes
    assert memory.peak < 4 * enlarged.nbytes  # among them the output, its gradient and those of input and weights
