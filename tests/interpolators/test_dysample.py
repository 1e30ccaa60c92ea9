import pytest
import torch
from torch.nn import functional as F

from afictl import UserError, build_interpolator
from tests.helpers import reference_loops as loops

S_FORMS = ("dysample-s", "dysample-s-plus")
EVERY_FORM = pytest.mark.parametrize("kind", ["dysample", "dysample-plus", *S_FORMS])


@EVERY_FORM
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_without_offsets_it_is_bilinear(kind, size):
    dysample = build_interpolator(kind, 8)
    torch.nn.init.zeros_(dysample.offset.weight)
    coarse = torch.randn(2, 8, *size)
    expected = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(dysample(coarse), expected)


@pytest.mark.parametrize("kind", ["dysample", "dysample-s"])
def test_fresh_interpolators_are_equal_and_nearly_bilinear(kind):
    torch.manual_seed(0)
    plain, plus = build_interpolator(kind, 8), build_interpolator(f"{kind}-plus", 8)
    plus.load_state_dict(plain.state_dict(), strict=False)
    coarse = torch.randn(2, 8, 5, 7)
    expected = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(plain(coarse), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(plus(coarse), plain(coarse))


@EVERY_FORM
@torch.no_grad()
def test_equals_the_definition_of_the_paper(kind):
    torch.manual_seed(0)
    dysample = loops.randomise(build_interpolator(kind, 8, groups=2).double())
    coarse = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    source = F.pixel_shuffle(coarse, 2) if kind in S_FORMS else coarse
    scope = 0.5 * dysample.scope(source).sigmoid() if kind.endswith("plus") else 0.25
    offset = scope * dysample.offset(source)
    # x and y, group, row and column of the fine pixel inside the coarse one
    offset = (F.pixel_unshuffle(offset, 2) if kind in S_FORMS else offset).view(2, 2, 2, 2, 2, 3, 4)
    expected = torch.zeros(2, 8, 6, 8, dtype=torch.float64)
    for i, y, x in loops.fine_pixels(coarse):
        for group in range(2):
            dx, dy = offset[i, :, group, y % 2, x % 2, y // 2, x // 2].tolist()
            start = (y % 2 - 0.5) / 2, (x % 2 - 0.5) / 2
            channels = slice(4 * group, 4 * group + 4)
            expected[i, channels, y, x] = loops.sampled(
                coarse[i, channels], y // 2 + start[0] + dy, x // 2 + start[1] + dx
            )
    torch.testing.assert_close(dysample(coarse), expected)


@pytest.mark.parametrize(
    ("kind", "parameters", "published"),
    [
        # Four modules in the paper's tables, which seem to leave out the biases of the offsets.
        ("dysample", 256 * 32 + 32, 32_700),
        ("dysample-plus", 2 * 256 * 32 + 32, 65_500),
        ("dysample-s", 64 * 16 + 16, 4_100),
        ("dysample-s-plus", 2 * 64 * 16 + 16, 8_200),
    ],
)
def test_parameter_count_is_the_published_one(kind, parameters, published):
    dysample = build_interpolator(kind, 256)
    assert sum(p.numel() for p in dysample.parameters()) == parameters
    assert 4 * (parameters - len(dysample.offset.bias)) == pytest.approx(published, abs=100)


@EVERY_FORM
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
    with pytest.raises(UserError, match=r"'dysample-s': .* 4, not 6"):
        build_interpolator("dysample-s", 6, groups=2)
