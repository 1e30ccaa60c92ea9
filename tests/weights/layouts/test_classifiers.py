"""Backbone weights in the place of a detector are told as what they are, with the option that takes them."""

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from afictl import build_detector
from afictl.errors import UserError
from afictl.weights import load_detector, load_weights
from afictl.weights.layouts.classifiers import is_classifier


def build(function, *arguments, **options):
    with torch.device("meta"):
        return function(*arguments, **options).state_dict()


@pytest.mark.parametrize(
    "network", ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_timm(network):
    tensors = build(timm.create_model, network)
    assert is_classifier(tensors)
    assert is_classifier({f"module.backbone.{name}": value for name, value in tensors.items()})


@pytest.mark.parametrize("network", ["resnet18", "tf_efficientnet_lite0"])
def test_backbones_without_a_class_layer(network):
    assert is_classifier(build(timm.create_model, network, num_classes=0))


@pytest.mark.parametrize("network", ["resnet50", "vgg11", "mobilenet_v3_small", "vit_b_16"])
def test_torchvision(network):
    assert is_classifier(build(torchvision.models.get_model, network))


@pytest.mark.parametrize("network", ["fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16", "fcn_resnet50"])
def test_detectors_are_none(network):
    assert not is_classifier(build(torchvision.models.get_model, network, weights=None, weights_backbone=None))


@pytest.mark.parametrize("preset", ["faster-rcnn-r18-fpn-tiny", "retinanet-r50-fpn"])
def test_detectors_of_afictl_are_none(preset):
    assert not is_classifier(build(lambda: build_detector(preset, num_classes=2, interpolator="nearest")))


def test_the_error_names_the_option(tmp_path):
    file = tmp_path / "resnet18.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), file)
    detector = build_detector("faster-rcnn-r18-fpn-tiny", num_classes=2, interpolator="nearest")
    for load in (load_detector, lambda path: load_weights(detector, path)):
        with pytest.raises(UserError, match=r"resnet18\.safetensors: contains backbone weights.*--backbone-weights"):
            load(file)
