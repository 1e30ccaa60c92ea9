"""Recognition of Faster and Mask R-CNN of mmdetection."""

import pytest
import timm
import torch

from afictl import load_preset
from afictl.detectors import build_detector
from afictl.presets import parse_preset
from afictl.weights.layouts import to_afictl
from afictl.weights.loading import compare_tensors
from tests.helpers.foreign_checkpoints import as_checkpoint


def layer(name, *shape):
    return {f"{name}.weight": torch.zeros(()).expand(shape), f"{name}.bias": torch.zeros(()).expand(shape[0])}


def mmdetection(masks, classes):
    """Tensors of an R-CNN with a ResNet-50 and an FPN; the biases of the class scores are their indices."""
    with torch.device("meta"):
        body = timm.create_model("resnet50").state_dict()
    tensors = {f"backbone.{k}": torch.zeros(()).expand(v.shape) for k, v in body.items() if not k.startswith("fc.")}
    tensors["backbone.conv1.weight"] = torch.randn(64, 3, 7, 7)
    for i in range(4):
        tensors |= layer(f"neck.lateral_convs.{i}.conv", 256, 256 * 2**i, 1, 1)
        tensors |= layer(f"neck.fpn_convs.{i}.conv", 256, 256, 3, 3)
    tensors |= layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    tensors |= layer("rpn_head.rpn_cls", 3, 256, 1, 1)
    tensors |= layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    tensors |= layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 49)
    tensors |= layer("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    tensors |= layer("roi_head.bbox_head.fc_cls", classes + 1, 1024)
    tensors |= layer("roi_head.bbox_head.fc_reg", 4 * classes, 1024)
    tensors["roi_head.bbox_head.fc_cls.bias"] = torch.arange(classes + 1.0)
    if masks:
        for i in range(4):
            tensors |= layer(f"roi_head.mask_head.convs.{i}.conv", 256, 256, 3, 3)
        tensors |= layer("roi_head.mask_head.upsample", 256, 256, 2, 2)
        tensors |= layer("roi_head.mask_head.conv_logits", classes, 256, 1, 1)
    return tensors


@pytest.mark.parametrize(("masks", "name", "classes"), [(True, "mask-rcnn", 80), (False, "faster-rcnn", 3)])
def test_all_tensors_are_mapped(masks, name, classes):
    tensors = mmdetection(masks, classes)
    converted = to_afictl(as_checkpoint(tensors))
    preset = parse_preset(converted.metadata["preset"])
    with torch.device("meta"):
        detector = build_detector(preset, classes)
    report = compare_tensors(detector, converted.tensors)
    assert report.complete, report
    shipped = load_preset(f"{name}-r50-fpn", ["interpolator.kind=nearest"])
    assert preset == shipped
    stem = converted.tensors["backbone.net.conv1.weight"]
    torch.testing.assert_close(stem, tensors["backbone.conv1.weight"], rtol=1e-5, atol=0)  # RGB, the same deviation
    assert converted.tensors["head.roi_heads.box_predictor.cls_score.bias"].tolist() == [classes, *range(classes)]
