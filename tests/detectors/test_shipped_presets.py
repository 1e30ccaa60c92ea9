"""Every shipped preset builds, and is as large as the reference says where the reference has it."""

import pytest
import torch

from afictl import build_detector, list_presets, load_preset
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator

# All parameters, and those that are trained: the headers of the reference's key lists.
SIZES = [
    ("faster-rcnn-r50-fpn", "nearest", 41_699_936, 41_477_536),
    # 4 steps: p6 is a 3x3 convolution of the 2048 channels of res5, and has an output convolution.
    ("faster-rcnn-r50-fpn-4step", "nearest", 41_699_936 + 5_308_928, 41_477_536 + 5_308_928),
    ("faster-rcnn-r50-fpn-4step", "dysample", 41_699_936 + 5_308_928 + 4 * 8224, 41_477_536 + 5_308_928 + 4 * 8224),
    ("mask-rcnn-r50-fpn-4step", "nearest", 44_343_216 + 5_308_928, 44_120_816 + 5_308_928),
    ("mask-rcnn-r50-fpn", "nearest", 44_343_216, 44_120_816),
    ("mask-rcnn-r50-fpn", "afi", 52_177_840, 51_955_440),
    ("mask-rcnn-r50-pafpn", "afi", 53_948_080, 53_725_680),
    ("retinanet-r50-fpn", "nearest", 37_915_572, 37_693_172),
    ("fcos-r50-fpn", "nearest", 32_244_245, 32_021_845),
    ("cascade-rcnn-r50-fpn", "nearest", 71_984_926, 71_762_526),
    ("cascade-rcnn-s101-fpn", "afi", 106_525_054, 106_160_350),
    ("cascade-rcnn-s101-pafpn", "afi", 108_296_062, 107_931_358),
    ("cascade-rcnn-swin-l-bifpn", "afi", 255_030_983, 255_030_983),
]


def build_on_meta(name, **options):
    with torch.device("meta"):
        return build_detector(name, **options)


@pytest.mark.parametrize(("name", "interpolator", "everything", "trained"), SIZES)
def test_a_preset_has_the_references_parameters(name, interpolator, everything, trained):
    parameters = list(build_on_meta(name, interpolator=interpolator).parameters())
    assert sum(value.numel() for value in parameters) == everything
    assert sum(value.numel() for value in parameters if value.requires_grad) == trained


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_builds_and_takes_an_interpolator_of_its_width(name):
    width = load_preset(name).neck.channels
    trained = AFInterpolator(width, blocks=1, growth=4)
    detector = build_on_meta(name, num_classes=3, interpolator=trained)
    if detector.preset.neck.interpolators == "per-step":
        assert len(detector.neck.interpolator.steps) == detector.neck.num_upsamplers
    else:
        assert detector.neck.interpolator is trained
    assert detector.preset.interpolator.options == trained.options


@pytest.mark.parametrize(
    "name",
    ["mask-rcnn-r18-fpn-tiny", "mask-rcnn-r18-pafpn-tiny", "faster-rcnn-r18-bifpn-tiny", "faster-rcnn-r50-fpn-4step"],
)
def test_an_interpolator_of_another_width_is_refused(name):
    width = load_preset(name).neck.channels
    with pytest.raises(UserError, match=f"{width * 2} .*{width}"):
        build_on_meta(name, interpolator=AFInterpolator(width * 2, blocks=1, growth=4))
