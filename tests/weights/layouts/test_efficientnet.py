"""EfficientNets in the layout of efficientnet-pytorch."""

import re

import pytest
import timm
import torch

from afictl import UserError
from afictl.backbones import build_backbone
from afictl.presets import BackboneConfig
from afictl.weights import load_backbone_weights
from afictl.weights.conversion import convert

LITE0 = "tf_efficientnet_lite0"
RENAMED = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
# timm's layers of a block -> those of efficientnet-pytorch, for a block with and without an expansion
WITH_EXPANSION = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
WITHOUT_EXPANSION = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}


def other_layout(state):
    """timm's tensors as efficientnet-pytorch names them: blocks are counted over all stages."""
    blocks = list(dict.fromkeys(match[0] for name in state if (match := re.match(r"blocks\.\d+\.\d+", name))))
    renamed = {}
    for name, value in state.items():
        if match := re.fullmatch(r"(blocks\.\d+\.\d+)\.(.+)\.(\w+)", name):
            block, layer, end = match.groups()
            layers = (WITH_EXPANSION if f"{block}.conv_pwl.weight" in state else WITHOUT_EXPANSION) | SQUEEZE
            renamed[f"_blocks.{blocks.index(block)}.{layers[layer]}.{end}"] = value
        else:
            layer, end = name.split(".")
            renamed[f"{RENAMED[layer]}.{end}"] = value
    return renamed


def donor(name):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for module in model.modules():  # statistics of norms that an exchange of two of them would show
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("name", [LITE0, "tf_efficientnet_b0"])
def test_the_backbone_computes_what_the_classifier_computes(tmp_path, name):
    model = donor(name)
    torch.save(other_layout(model.state_dict()), tmp_path / "classifier.pth")
    backbone = build_backbone(BackboneConfig(name=name)).eval()
    report = load_backbone_weights(backbone, tmp_path / "classifier.pth")
    assert report.complete
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.forward_intermediates(image, indices=[1, 2, 3, 4], intermediates_only=True)
        for level, value in zip(backbone(image).values(), expected, strict=True):
            torch.testing.assert_close(level, value, rtol=1e-4, atol=1e-5)


def test_weights_of_another_width_or_depth_are_refused(tmp_path):
    torch.save(other_layout(donor("tf_efficientnet_lite1").state_dict()), tmp_path / "lite1.pth")
    with pytest.raises(UserError, match=rf"lite1\.pth: not weights of {LITE0}"):
        load_backbone_weights(build_backbone(BackboneConfig(name=LITE0)), tmp_path / "lite1.pth")


def test_the_file_is_recognised_and_converted(tmp_path):
    torch.save(other_layout(donor(LITE0).state_dict()), tmp_path / "classifier.pth")
    lines = convert(tmp_path / "classifier.pth", tmp_path / "converted.safetensors")
    assert lines[0] == f"recognised: {LITE0}"
    report = load_backbone_weights(build_backbone(BackboneConfig(name=LITE0)), tmp_path / "converted.safetensors")
    assert report.complete
