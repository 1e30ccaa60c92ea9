"""Weights of a backbone and the mean and deviation of pixels that they were trained with."""

import pytest
import timm
import torch

from afictl import build_detector, load_preset
from afictl.backbones import build_backbone
from afictl.backbones.resnet import resnet_key
from afictl.presets import BackboneConfig, InputConfig
from afictl.training.initial_weights import InitialWeights, load_initial_weights
from afictl.weights import load_backbone_weights
from afictl.weights.conversion import convert

LITE0 = "tf_efficientnet_lite0"  # mean and deviation 0.5
HALF = (0.5, 0.5, 0.5)
DEFAULT = InputConfig()
LITE0_DETECTOR = ("faster-rcnn-lite0-fpn", "neck.channels=16", "detector.fc_width=16", "interpolator.kind=nearest")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of timm, in afictl's file of a backbone, and of detectron2."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(timm.create_model(LITE0).state_dict(), folder / "lite0.pth")
    convert(folder / "lite0.pth", folder / "lite0.safetensors")
    state = timm.create_model("resnet18").state_dict()
    torch.save(state, folder / "resnet18.pth")
    torch.save({resnet_key(name): value for name, value in state.items()}, folder / "R-18.pth")
    return folder


def differences(path, network, **config):
    report = load_backbone_weights(build_backbone(BackboneConfig(name=network)), path, InputConfig(**config))
    assert report.complete == (not report.differences)
    return {difference.key: pytest.approx(difference.trained) for difference in report.differences}


@pytest.mark.parametrize("file", ["lite0.pth", "lite0.safetensors"])
def test_statistics_of_the_network_are_compared(files, file):
    assert differences(files / file, LITE0, mean=HALF, std=HALF) == {}
    assert differences(files / file, LITE0, std=HALF) == {"input.mean": HALF}
    assert differences(files / file, LITE0) == {"input.mean": HALF, "input.std": HALF}


def test_statistics_of_resnets_are_compared_except_for_a_converted_deviation(files):
    mean, std = {"input.mean": DEFAULT.mean}, {"input.std": DEFAULT.std}
    assert differences(files / "resnet18.pth", "resnet18") == differences(files / "R-18.pth", "resnet18") == {}
    assert differences(files / "resnet18.pth", "resnet18", mean=HALF, std=HALF) == mean | std
    assert differences(files / "R-18.pth", "resnet18", mean=HALF, std=HALF) == mean


def test_without_a_configuration_the_statistics_are_those_of_a_preset_with_the_network(files):
    assert load_backbone_weights(build_backbone(BackboneConfig(name=LITE0)), files / "lite0.pth").complete


def test_the_log_of_a_training_names_the_flags(files):
    preset = load_preset(LITE0_DETECTOR[0], [*LITE0_DETECTOR[1:], "input.mean=[0.4,0.4,0.4]"])
    initial = InitialWeights(backbone_weights=files / "lite0.pth")
    lines = load_initial_weights(build_detector(preset, 2), initial)
    assert "tensors loaded" in lines[0]
    assert lines[1].startswith("note: ")
    assert "lite0.pth was trained with another input.mean;" in lines[1]
    assert "--set input.mean=[0.5,0.5,0.5]" in lines[1]
    same = build_detector(load_preset(LITE0_DETECTOR[0], LITE0_DETECTOR[1:]), 2)
    assert not any(line.startswith("note: ") for line in load_initial_weights(same, initial))


@pytest.mark.parametrize("file", ["resnet50.pth", "R-50.pth"])
def test_the_backbone_of_a_model_of_torchvision_is_compared(tmp_path, file):
    state = timm.create_model("resnet50").state_dict()
    if file == "R-50.pth":
        state = {resnet_key(name): torch.full_like(v, 2) if "var" in name else v for name, v in state.items()}
    torch.save(state, tmp_path / file)
    changed = ["input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]"]
    detector = build_detector(load_preset("torchvision:fasterrcnn_resnet50_fpn", changed), 2)
    report = load_backbone_weights(detector.backbone, tmp_path / file, detector.input)
    assert [difference.key for difference in report.differences] == ["input.mean", "input.std"]
    assert load_backbone_weights(detector.backbone, tmp_path / file).complete
