"""Training with an interpolator for each enlargement: guide, pre-training and fine-tuning."""

import pytest
import torch

from afictl import UserError, load_preset
from afictl.data import make_shapes
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.training import InitialWeights, finetune, pretrain
from afictl.training.initial_weights import resolve_interpolator
from afictl.weights import load_detector
from tests.helpers.tiny_runs import SMALL, with_steps

FOUR_STEPS = ("neck.interpolators=per-step", "neck.top_down_from=p6")
ONE_STEP = [f"{stage}.{key}=1" for stage in ("stage1", "stage2") for key in ("steps", "eval_every")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=2, size=64)


@pytest.fixture(scope="module")
def preset():
    settings = [setting for setting in SMALL if not setting.startswith("interpolator.")]
    narrow = "backbone.options={channels: [8, 16, 32, 64]}"
    loaded = load_preset("faster-rcnn-r18-fpn-tiny", [*settings, narrow, *FOUR_STEPS])
    return with_steps(loaded, steps=1, eval_every=1, warmup_steps=0, lr=1e-12)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, fabric, preset, data):
    """Pre-training on a guide whose neck has four interpolators."""
    folder = tmp_path_factory.mktemp("runs")
    finetune(fabric, preset, data, folder / "guide", InitialWeights("nearest"))
    overrides = [*ONE_STEP, "stage1.features=sums"]
    pretrain(fabric, folder / "guide", data, folder / "pretrain", kind="dysample", overrides=overrides)
    return folder / "pretrain"


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory, fabric, preset, data, pretrained):
    """A fine-tuning that changes its initial weights by rounding alone."""
    folder = tmp_path_factory.mktemp("runs") / "finetuned"
    finetune(fabric, preset, data, folder, InitialWeights(str(pretrained), weights=pretrained.parent / "guide"))
    return folder


def test_pretraining_makes_a_single_interpolator_that_starts_every_step(pretrained, finetuned):
    single = Interpolator.load(pretrained / "interpolator.safetensors")
    assert not isinstance(single, PerStepInterpolator)
    student = load_detector(pretrained / "stage2")
    assert (student.preset.neck.interpolators, student.preset.neck.top_down_from) == ("shared", "p6")
    steps = load_detector(finetuned).detector.neck.interpolator.steps
    assert len(steps) == 4
    for step in steps:
        torch.testing.assert_close(step.state_dict(), single.state_dict(), rtol=0, atol=1e-6)


def test_a_run_with_steps_starts_another_one(finetuned, preset):
    module = Interpolator.load(finetuned / "interpolator.safetensors")
    _, resolved = resolve_interpolator(preset, str(finetuned), seed=0)
    assert len(module.steps) == len(resolved.steps) == 4
    torch.testing.assert_close(resolved.state_dict(), module.state_dict(), rtol=0, atol=0)
    shared = load_preset("faster-rcnn-r18-fpn-tiny", ["neck.channels=16"])
    with pytest.raises(UserError, match=rf"{finetuned}: .* 4 steps"):
        resolve_interpolator(shared, str(finetuned), seed=0)
