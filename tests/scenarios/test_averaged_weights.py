"""The choice between averaged and trained weights in every command and function that reads checkpoints of others."""

import pytest
import torch

from afictl import UserError, build_detector, load_preset, load_weights
from afictl.backbones import build_backbone
from afictl.comparison.experiment.specification import ExperimentSettings, Method
from afictl.presets import BackboneConfig
from afictl.run_records import read_config
from afictl.tensor_files import read_tensors
from afictl.training import InitialWeights, finetune
from afictl.training.initial_weights import build_seeded_detector, load_initial_weights, resolve_interpolator
from afictl.weights import load_detector, load_interpolator
from tests.helpers.foreign_checkpoints import to_detectron2
from tests.helpers.tiny_runs import SMALL, set_flags

NAMES = ("disc", "square", "triangle", "cross")
CHOICES = [(None, 1.0), pytest.param(True, 1.0, marks=pytest.mark.slow), (False, 0.0)]
MARKED = "backbone.net.bn1.bias"
STEP = ("backbone.name=resnet18", "train.steps=1", "train.eval_every=1", "stage1.steps=1", "stage1.eval_every=1")


def marked(value, tensors, suffix):
    return {name: torch.full_like(v, value) if name.endswith(suffix) else v for name, v in tensors.items()}


@pytest.fixture(scope="module")
def preset():
    return load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, *STEP))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, preset):
    """A detector as torchvision's references save it; one tensor is 0 in the trained weights, 1 in the averaged."""
    tensors = to_detectron2(build_detector(preset, num_classes=4))
    states = [
        marked(value, marked(value, tensors, "stem.conv1.norm.bias"), "Generators.0.0.0.bias") for value in (0, 1)
    ]
    path = tmp_path_factory.mktemp("foreign") / "checkpoint.pth"
    torch.save({"model": states[0], "model_ema": states[1], "names": NAMES}, path)
    return path


def kind(value):
    return "averaged" if value else "trained"


@pytest.mark.parametrize(("averaged", "expected"), CHOICES)
def test_detectors_and_interpolators(checkpoint, preset, averaged, expected):
    loaded = load_detector(checkpoint, averaged=averaged)
    assert loaded.detector.state_dict()[MARKED][0] == expected
    assert f"{kind(expected)} weights" in str(loaded.report)
    assert load_interpolator(checkpoint, averaged=averaged).head.bias[0] == expected
    module = build_detector(preset, num_classes=4)
    assert f"{kind(expected)} weights" in str(load_weights(module, checkpoint, averaged=averaged))
    assert module.state_dict()[MARKED][0] == expected


@pytest.mark.parametrize(("averaged", "expected"), CHOICES)
def test_initial_weights(checkpoint, preset, tmp_path, averaged, expected):
    backbone = build_backbone(BackboneConfig(name="resnet18")).net.state_dict()
    states = {key: marked(value, backbone, "bn1.bias") for key, value in (("state_dict", 0), ("state_dict_ema", 1))}
    torch.save(states, tmp_path / "timm.pth")
    method = Method("afi", str(checkpoint))
    for sources in ({"weights": checkpoint}, {"backbone_weights": tmp_path / "timm.pth"}, {}):
        settings = ExperimentSettings(preset, tmp_path, tmp_path, (method,), averaged=averaged, **sources)
        initial = settings.initial_weights(method)
        resolved, module = resolve_interpolator(preset, initial.interpolator, 0, initial.averaged_interpolator)
        detector = build_seeded_detector(resolved, module, 4, 0)
        lines = load_initial_weights(detector, initial, NAMES)
        assert any(f"{kind(expected)} weights" in line for line in lines)
        name = MARKED if sources else "neck.interpolator.head.bias"
        assert detector.state_dict()[name][0] == expected


def test_runs_record_the_choice(fabric, preset, checkpoint, shapes_dir, tmp_path):
    initial = InitialWeights(weights=checkpoint, averaged=False)
    finetune(fabric, preset, shapes_dir, tmp_path / "run", initial)
    assert read_config(tmp_path / "run" / "config.yaml").averaged is False
    assert read_tensors(tmp_path / "run" / "last.safetensors")[0][MARKED][0] < 0.1
    with pytest.raises(UserError, match=r"other settings: the run has averaged False, now none$"):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights(weights=checkpoint), resume=True)


def test_commands_say_which_weights_they_take(afictl, checkpoint, shapes_dir, tmp_path):
    preset = ("--preset", "mask-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--output", tmp_path / "run")
    small = [word for setting in (*SMALL, *STEP) for word in ("--set", setting)]
    recipe = set_flags(setting for setting in (*SMALL, *STEP) if setting.startswith(("stage1.", "input.")))
    pictures = ("--data", shapes_dir, "--limit", 1, "--output", tmp_path / "out")
    unlabelled = ("--images", shapes_dir / "val2017", "--exclude", shapes_dir, "--limit", 1)
    commands = (
        ("eval", "--weights", checkpoint, "--set", "input.test_size=64", *pictures),
        ("visualize", "detections", "--weights", checkpoint, *pictures),
        ("visualize", "features", "--guide", checkpoint, "--interpolator", "nearest", "--levels", "p3", *pictures),
        ("pseudo-label", "--weights", checkpoint, *unlabelled, "--output", tmp_path / "pseudo.json"),
        ("finetune", *preset, *small, "--weights", checkpoint),
        ("pretrain", "--guide", checkpoint, *recipe, "--stages", 1, *preset[2:4], "--output", tmp_path / "pretraining"),
    )
    for command in commands:
        code, out, err = afictl(*command, "--no-ema")
        assert "trained weights (under model); --ema takes" in out, (command, code, err)


def test_a_flag_without_effect_is_an_error(afictl, guide_run, shapes_dir, tmp_path):
    for arguments in (
        ("eval", "--weights", guide_run, "--ema"),
        ("finetune", "--preset", "mask-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--output", tmp_path / "a", "--ema"),
    ):
        code, _, err = afictl(*arguments)
        assert (code, err.count("\n")) == (2, 1)
        assert "--ema" in err
