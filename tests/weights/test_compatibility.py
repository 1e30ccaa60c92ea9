from pathlib import Path

import pytest

from afictl import UserError, load_preset
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.compatibility import checkpoint_differences, difference_note, require_same_arithmetic

SWIN = "cascade-rcnn-swin-t-bifpn"


def checkpoint(preset, *overrides):
    return Checkpoint(Path("best.safetensors"), {}, {"preset": load_preset(preset, overrides).model_dump(mode="json")})


@pytest.mark.parametrize(
    ("preset", "setting"),
    [
        ("mask-rcnn-r50-fpn", "backbone.stride_in_1x1=true"),
        ("mask-rcnn-r50-fpn", "input.mean=[0.5,0.5,0.5]"),
        ("mask-rcnn-r50-fpn", "input.std=[1.0,1.0,1.0]"),
        ("mask-rcnn-r50-pafpn", "neck.fuse=avg"),
        (SWIN, "neck.fusion=fast"),
        (SWIN, "neck.skips=layer"),
        (SWIN, "neck.blocks=plain"),
    ],
)
def test_settings_to_add_are_named(preset, setting):
    with pytest.raises(UserError) as error:
        require_same_arithmetic(load_preset(preset), checkpoint(preset, setting))
    assert f"--set {setting}" in str(error.value)
    assert "best.safetensors" in str(error.value)
    require_same_arithmetic(load_preset(preset, [setting]), checkpoint(preset, setting))


def test_several_differences_are_named_and_irrelevant_ones_ignored():
    with pytest.raises(UserError, match=r"--set backbone\.stride_in_1x1=true --set neck\.fuse=avg$"):
        require_same_arithmetic(
            load_preset("mask-rcnn-r50-fpn"),
            checkpoint("mask-rcnn-r50-fpn", "backbone.stride_in_1x1=true", "neck.fuse=avg"),
        )
    irrelevant = (
        "backbone.options={drop_path_rate: 0.1}",
        "backbone.name=resnet50.a1_in1k",
        "detector.nms_threshold=0.4",
    )
    assert noted(load_preset("mask-rcnn-r50-fpn"), checkpoint("mask-rcnn-r50-fpn", *irrelevant)) == ""
    irrelevant = ("detector.anchor_sizes=[8,16,32,64,128]", "input.test_size=600", "train.lr=1")
    require_same_arithmetic(load_preset("mask-rcnn-r50-fpn"), checkpoint("mask-rcnn-r50-fpn", *irrelevant))
    require_same_arithmetic(load_preset("mask-rcnn-r50-fpn"), Checkpoint(Path("plain.pth"), {}, {}))


def noted(preset, checkpoint):
    return difference_note(checkpoint_differences(preset, checkpoint), checkpoint.path)


@pytest.mark.parametrize(
    ("preset", "setting"),
    [
        ("mask-rcnn-r50-fpn", "backbone.name=resnet50d"),
        ("mask-rcnn-r50-fpn", 'backbone.options={"act_layer":"silu"}'),
        ("mask-rcnn-r50-fpn", "backbone.norm=batch"),
        ("mask-rcnn-r50-fpn", "interpolator.kind=bilinear"),
        ("retinanet-r50-fpn", "detector.anchors_per_octave=1"),
        ("mask-rcnn-r50-fpn", "detector.anchor_sizes=[8.0,16.0,32.0,64.0,128.0]"),
        ("mask-rcnn-r50-fpn", "detector.anchor_ratios=[0.5,1.0]"),
        ("fcos-r50-fpn", "detector.size_ranges=[32.0,64.0,128.0,256.0]"),
    ],
)
def test_other_settings_are_noted(preset, setting):
    note = noted(load_preset(preset), checkpoint(preset, setting))
    assert note.startswith(f"note: best.safetensors was trained with another {setting.partition('=')[0]}")
    assert f"--set {setting} keeps" in note
    assert noted(load_preset(preset, [setting]), checkpoint(preset, setting)) == ""
    assert noted(load_preset(preset), Checkpoint(Path("plain.pth"), {}, {})) == ""
