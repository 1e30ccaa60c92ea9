import pytest
import torch
from torch.nn import functional as F

from afictl import UserError, build_detector, build_interpolator, interpolator_kinds, load_preset
from afictl.interpolators import INTERPOLATORS

COARSE = torch.arange(24.0).view(1, 2, 3, 4)


@pytest.mark.parametrize("kind", interpolator_kinds())
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 2)])
def test_every_kind_enlarges_exactly_twofold(kind, size):
    interpolator = build_interpolator(kind, 8)
    coarse, fine = torch.randn(2, 8, *size), torch.randn(2, 8, 2 * size[0] - 1, 2 * size[1])
    enlarged = interpolator(coarse, fine)
    assert enlarged.shape == (2, 8, 2 * size[0], 2 * size[1])
    assert enlarged.isfinite().all()
    assert (interpolator.kind, interpolator.channels) == (kind, 8)
    assert interpolator.learned == bool(interpolator.state_dict())


@pytest.mark.parametrize("kind", interpolator_kinds())
def test_fine_map_is_needed_by_the_kinds_that_declare_it(kind):
    interpolator, coarse = build_interpolator(kind, 8), torch.randn(2, 8, 3, 4)
    if INTERPOLATORS[kind].needs_fine:
        with pytest.raises(UserError, match=kind):
            interpolator(coarse)
    else:
        torch.testing.assert_close(interpolator(coarse, torch.randn(2, 8, 9, 9)), interpolator(coarse))


def test_nearest_repeats_every_value():
    expected = COARSE.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(build_interpolator("nearest", 2)(COARSE), expected)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_smooth_kinds_do_not_align_corners(kind):
    expected = F.interpolate(COARSE, size=(6, 8), mode=kind, align_corners=False)
    torch.testing.assert_close(build_interpolator(kind, 2)(COARSE), expected)


@pytest.mark.parametrize("kind", interpolator_kinds())
def test_options_build_an_interpolator_of_the_same_shape(kind):
    first = build_interpolator(kind, 8)
    second = build_interpolator(kind, 8, **first.options)
    second.load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("kind", "options", "fact"),
    [
        ("neares", {}, "'nearest'"),
        ("xyz", {}, "afi, nearest, bilinear, bicubic"),
        ("dysampel", {}, "'dysample'"),
        ("caraf", {}, "'carafe'"),
        ("afi", {"bloks": 2}, "'bloks'.*'blocks'"),
        ("nearest", {"blocks": 2}, "'nearest' .*'blocks'"),
        ("dysample-plus", {"group": 2}, "'group'.*'groups'"),
    ],
)
def test_unknown_kinds_and_options_are_named(kind, options, fact):
    with pytest.raises(UserError, match=fact):
        build_interpolator(kind, 8, **options)


@pytest.mark.parametrize("name", ["channels", "kind", "self"])
def test_arguments_that_are_no_options_are_named(name):
    preset = load_preset("faster-rcnn-r18-fpn-tiny", [f"interpolator.options={{{name}: 5}}"])
    with pytest.raises(UserError, match=f"no option '{name}'"):
        build_detector(preset, 2)
