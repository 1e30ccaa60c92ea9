"""ImageNet backbones through ``afictl convert``."""

import re

import pytest
import timm
import torch

from afictl import UserError
from afictl.backbones import build_backbone
from afictl.backbones.resnet import resnet_key
from afictl.presets import BackboneConfig
from afictl.weights import load_backbone_weights
from afictl.weights.conversion import convert
from tests.helpers.foreign_checkpoints import save_pkl


def features(path, name, **changes):
    backbone = build_backbone(BackboneConfig(name=name, **changes)).eval()
    load_backbone_weights(backbone, path)
    with torch.no_grad():
        return backbone(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_converted_backbone_of_timm_gives_the_same_features(tmp_path, name):
    torch.manual_seed(0)
    torch.save(timm.create_model(name).state_dict(), tmp_path / "timm.pth")
    lines = convert(tmp_path / "timm.pth", tmp_path / "converted.safetensors")
    assert lines[0] == f"recognised: {name}"
    before, after = (features(tmp_path / file, name) for file in ("timm.pth", "converted.safetensors"))
    assert all(torch.equal(before[level], after[level]) for level in before)


def test_converted_backbone_of_msra_gives_the_same_features_with_its_strides(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("resnet50").state_dict()
    caffe2_state = {resnet_key(k): v for k, v in state.items() if not re.search(r"^fc|running|num_batches", k)}
    save_pkl(tmp_path / "R-50.pkl", caffe2_state)
    lines = convert(tmp_path / "R-50.pkl", tmp_path / "converted.safetensors")
    assert lines[0] == "recognised: resnet50, with strides in the 1x1 convolutions"
    before, after = (
        features(tmp_path / file, "resnet50", stride_in_1x1=True) for file in ("R-50.pkl", "converted.safetensors")
    )
    assert all(torch.equal(before[level], after[level]) for level in before)
    with pytest.raises(UserError, match=r"--set backbone\.stride_in_1x1=true"):
        features(tmp_path / "converted.safetensors", "resnet50")


def test_unsupported_network_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: .*conv1\.weight"):
        convert(tmp_path / "other.pth", tmp_path / "converted.safetensors")
    assert not (tmp_path / "converted.safetensors").exists()
