"""Detectors and batches that cannot fit into memory are told before they take it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from afictl import UserError, build_detector, build_interpolator, load_preset
from afictl import memory as module
from afictl.detectors import image_memory, predict
from afictl.distributed import Runtime
from afictl.evaluation import evaluate
from afictl.evaluation.pseudo_labels import write_pseudo_labels
from afictl.evaluation.tta import TestTimeAugmentation as Augmentation
from afictl.evaluation.tta import detect_augmented
from afictl.machine import machine_memory
from afictl.memory import build_within_memory
from afictl.training import InitialWeights, finetune
from afictl.training.memory import require_batch_memory
from afictl.visualization import NamedDetectors, feature_figures
from afictl.weights import LoadedDetector, LoadReport
from tests.helpers.narrow_presets import narrow_preset

TINY = "faster-rcnn-r18-fpn-tiny"


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 60 megabytes, on which weights of more than a megabyte are large."""
    for place in (module, image_memory):
        monkeypatch.setattr(place, "machine_memory", lambda: 60e6)
    monkeypatch.setattr(module, "_UNCHECKED_BYTES", 1e6)


def test_the_memory_is_that_of_the_machine():
    assert 2**28 < machine_memory() < 2**50


def test_weights_beyond_a_third_of_the_memory_are_refused(small_machine):
    settings = ["backbone.options={channels: [8, 16, 24, 32]}", "neck.channels=16", "detector.fc_width=16"]
    assert build_detector(load_preset(TINY, settings), 2, "nearest").num_classes == 2
    for preset in (TINY, "cascade-rcnn-swin-t-bifpn-tiny"):  # the second has options of its backbone
        with pytest.raises(UserError, match=rf"{preset}: .* 0\.0 GB .*0\.1 GB .*neck\.channels"):
            build_detector(load_preset(preset, ["neck.channels=512"]), 2, "nearest")
    with pytest.raises(UserError, match=r"'afi': .*neck"):
        build_interpolator("afi", 512)
    with torch.device("meta"):  # takes no memory
        assert build_detector(load_preset(TINY), 2).num_classes == 2


def test_large_weights_that_fit_are_those_of_the_seed(monkeypatch):
    states = []
    for unchecked in (1e9, 1e6):
        monkeypatch.setattr(module, "_UNCHECKED_BYTES", unchecked)
        torch.manual_seed(3)
        detector = build_detector(load_preset(TINY, ["neck.channels=16", "detector.fc_width=16"]), 2)
        states.append((detector.state_dict(), torch.get_rng_state()))
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_more_layers_than_a_network_has_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_UNCHECKED_PARAMETERS", 20)
    monkeypatch.setattr(module, "MAX_PARAMETERS", 200)
    assert build_interpolator("afi", 1, blocks=12, growth=1).options["blocks"] == 12
    preset = load_preset(TINY, ["neck.channels=1", "interpolator.options={blocks: 65536, growth: 1}"])
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(UserError, match="'afi': more than 200 tensors"):
            build_interpolator("afi", 1, blocks=65_536, growth=1)
        with torch.device(device), pytest.raises(UserError, match="more than 200 tensors"):
            build_detector(preset)


def test_a_parameter_that_cannot_be_allocated_is_told_by_name(monkeypatch):
    with pytest.raises(UserError, match=r"wide: .*detector\.fc_width"):
        build_within_memory("wide", lambda: nn.Linear(2**25, 2**25))
    with pytest.raises(RuntimeError, match="shape"):
        build_within_memory("other", lambda: torch.empty(2) @ torch.empty(3, 3))


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["input.min_sizes=[64, 512]"], None),
        (["input.min_sizes=[64, 60000]"], r"4 images of \d+x\d+ .*input\.max_size.*input\.min_sizes or train\.batch"),
        (["input.min_sizes=[60000]", "input.max_size=512"], None),  # the long side bounds the short one
        (["input.min_sizes=[64]", "train.batch_size=60000"], r"60000 images of 64x64 .*train\.batch_size"),
        (
            ["input.min_sizes=[64]", "input.test_size=60000", "input.max_size=60000"],
            r"1 image of 60000x60000 .*test_size",
        ),
    ],
)
def test_a_batch_that_cannot_fit_is_refused(small_machine, overrides, facts):
    preset = load_preset(TINY, ["input.test_size=64", "input.max_size=1333", "train.batch_size=4", *overrides])
    if facts is None:
        require_batch_memory(preset, "train", 4, torch.device("cpu"))
        return
    with pytest.raises(UserError, match=facts):
        require_batch_memory(preset, "train", 1, torch.device("cpu"))


def loaded(detector):
    return LoadedDetector(detector, detector.preset, ("a",), {}, LoadReport((), (), (), ()))


@pytest.mark.parametrize(
    ("detect", "facts"),
    [
        (lambda detector, image: predict(detector, [image]), r"2000x2000 pixels .*test_size"),
        (
            lambda detector, image: detect_augmented(detector, image, Augmentation((100, 1500))),
            r"2 images of 1500x1500 pixels .*--tta-sizes",
        ),
        (
            lambda detector, image: NamedDetectors.of({"a": loaded(detector)}, []),
            r"2000x2000 pixels .*test_size",
        ),
        (lambda detector, image: next(feature_figures(detector, {}, [])), r"2000x2000 pixels .*test_size"),
        (lambda detector, image: evaluate(detector, None, Runtime()), r"2000x2000 pixels .*test_size"),
        (
            lambda detector, image: write_pseudo_labels(
                loaded(detector), [], Path(), Path("labels.json"), [0.5], Runtime(), info={}
            ),
            r"2000x2000 pixels .*test_size",
        ),
    ],
    ids=["predict", "tta", "visualize", "features", "evaluate", "pseudo-label"],
)
def test_images_that_cannot_fit_are_refused_at_every_door(detect, facts, monkeypatch):
    detector = build_detector(narrow_preset(TINY, "input.test_size=2000", "input.max_size=2000"), 1, "nearest")
    monkeypatch.setattr(image_memory, "machine_memory", lambda: 200e6)
    with pytest.raises(UserError, match=facts):
        detect(detector.eval(), torch.zeros(3, 32, 32, dtype=torch.uint8))


def test_a_training_is_refused_before_it_begins(fabric, shapes_dir, tmp_path):
    preset = load_preset(TINY, ["input.min_sizes=[65000]", "input.max_size=65000"])
    with pytest.raises(UserError, match=r"input\.min_sizes"):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    assert not list(tmp_path.iterdir())
