import pytest
import torch
from torch import nn
from torch.nn import functional as F

from afictl import UserError, build_interpolator
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


def test_has_as_many_parameters_as_published():
    carafe = build_interpolator("carafe", 256)
    # +0.22 M for the three steps of a pyramid, as in SAPA's table
    assert sum(p.numel() for p in carafe.parameters()) == 256 * 64 + 64 + 64 * 100 * 9 + 100 == 74_148


def test_starts_as_a_mean_of_five_by_five():
    torch.manual_seed(0)
    coarse = torch.randn(1, 8, 6, 7)
    mean = F.avg_pool2d(coarse, 5, stride=1, padding=2)
    torch.testing.assert_close(
        build_interpolator("carafe", 8)(coarse), F.interpolate(mean, scale_factor=2), atol=0.02, rtol=0
    )


def test_needs_less_than_three_times_the_memory_of_its_output():
    carafe = build_interpolator("carafe", 256)
    coarse = torch.randn(1, 256, 100, 168)
    with torch.no_grad(), LiveMemory() as memory:
        enlarged = carafe(coarse)
    assert memory.live == enlarged.nbytes
    assert enlarged.nbytes < memory.peak < 2 * enlarged.nbytes


def test_training_keeps_no_product():
    carafe = build_interpolator("carafe", 128)
    coarse = nn.Parameter(torch.randn(1, 128, 25, 42))
    with LiveMemory() as memory:
        enlarged = carafe(coarse)
        kept = memory.live - enlarged.nbytes
        enlarged.backward(torch.ones_like(enlarged))
    # the compressed map, the kernels and nothing of the size of the 25 neighbourhoods
    assert kept < 0.5 * enlarged.nbytes
    assert memory.peak < 4 * enlarged.nbytes  # among them the output, its gradient and those of input and weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"up_kernel": 4}, r"'carafe': up_kernel is a positive odd whole number, not 4"),
        ({"encoder_kernel": 0}, r"encoder_kernel is a positive odd"),
        ({"compressed_channels": 2.5}, r"compressed_channels is a positive whole number, not 2\.5"),
        ({"kernel": 3}, r"no option 'kernel'; did you mean 'up_kernel'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build_interpolator("carafe", 8, **options)
