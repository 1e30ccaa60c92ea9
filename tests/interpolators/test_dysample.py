import pytest
import torch
from torch.nn import functional as F

from afictl import UserError, build_interpolator
from tests.helpers import reference_loops as loops

BOTH_KINDS = pytest.mark.parametrize("kind", ["dysample", "dysample-plus"])


@BOTH_KINDS
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_without_offsets_it_is_bilinear(kind, size):
    dysample = build_interpolator(kind, 8)
    torch.nn.init.zeros_(dysample.offset.weight)
    coarse = torch.randn(2, 8, *size)
    expected = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(dysample(coarse), expected)


def test_fresh_interpolators_are_equal_and_nearly_bilinear():
    torch.manual_seed(0)
    plain, plus = build_interpolator("dysample", 8), build_interpolator("dysample-plus", 8)
    plus.load_state_dict(plain.state_dict(), strict=False)
    coarse = torch.randn(2, 8, 5, 7)
    expected = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(plain(coarse), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(plus(coarse), plain(coarse))


def sample(image, y, x):
    """(C, H, W) sampled bilinearly at (y, x), in pixels from the top left corner, with a replicated border."""
    (h, w), (y, x) = image.shape[1:], (y - 0.5, x - 0.5)
    value = 0
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(x // 1), int(x // 1) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            value = value + weight * image[:, min(max(row, 0), h - 1), min(max(column, 0), w - 1)]
    return value


@BOTH_KINDS
@torch.no_grad()
def test_equals_the_definition_of_the_paper(kind):
    torch.manual_seed(0)
    dysample = loops.randomise(build_interpolator(kind, 6, groups=2).double())
    coarse = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    scope = 0.5 * dysample.scope(coarse).sigmoid() if kind == "dysample-plus" else 0.25
    # x and y, group, row and column of the fine pixel inside the coarse one
    offset = (scope * dysample.offset(coarse)).view(2, 2, 2, 2, 2, 3, 4)
    expected = torch.zeros(2, 6, 6, 8, dtype=torch.float64)
    for i, y, x in loops.fine_pixels(coarse):
        for group in range(2):
            dx, dy = offset[i, :, group, y % 2, x % 2, y // 2, x // 2].tolist()
            start = (y % 2 - 0.5) / 2, (x % 2 - 0.5) / 2
            point = y // 2 + 0.5 + start[0] + dy, x // 2 + 0.5 + start[1] + dx
            channels = slice(3 * group, 3 * group + 3)
            expected[i, channels, y, x] = sample(coarse[i, channels], *point)
    torch.testing.assert_close(dysample(coarse), expected)


@pytest.mark.parametrize(("kind", "parameters"), [("dysample", 8_224), ("dysample-plus", 16_416)])
def test_parameter_count_is_the_published_one(kind, parameters):
    # 32.7 k and 65.5 k for four modules in the paper, which seems to leave out the 32 biases
    assert sum(p.numel() for p in build_interpolator(kind, 256).parameters()) == parameters


@BOTH_KINDS
def test_sampling_points_are_exact_under_bfloat16_autocast(kind):
    dysample = build_interpolator(kind, 4, groups=1)
    torch.nn.init.zeros_(dysample.offset.weight)
    ramp = torch.linspace(0, 1, 300).expand(1, 4, 2, 300).contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        assert dysample.points(ramp).dtype == torch.float32
        assert dysample(ramp.bfloat16()).dtype == torch.bfloat16
        enlarged = dysample(ramp)
    torch.testing.assert_close(enlarged, F.interpolate(ramp, scale_factor=2.0, mode="bilinear", align_corners=False))


def test_groups_must_divide_the_channels():
    with pytest.raises(UserError, match=r"groups=4 .* 6 "):
        build_interpolator("dysample", 6, groups=4)
