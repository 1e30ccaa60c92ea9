"""Every tiny preset trains from end to end and overfits eight images."""

import shutil

import pytest

from afictl import list_presets, load_preset
from afictl.data import make_shapes
from afictl.training import finetune
from afictl.weights import load_detector
from tests.helpers.slow_cases import others_slow

TINY = [name for name in list_presets() if name.endswith("-tiny")]
QUICK = ("mask-rcnn-r18-fpn-tiny", "cascade-rcnn-swin-t-bifpn-tiny", "fcos-r18-fpn-tiny", "centermask-r18-bifpn-tiny")
"""Presets with all kinds of heads, necks and backbones, which are trained in every run of the tests."""
SMALL_IMAGES = ("input.min_sizes=[128]", "input.test_size=128", "loader.workers=0")


@pytest.fixture(scope="module")
def eight_images(tmp_path_factory):
    """Eight generated images that are the training and the held-out split at once."""
    folder = make_shapes(tmp_path_factory.mktemp("data") / "eight", train=8, val=1, size=128)
    shutil.rmtree(folder / "val2017")
    shutil.copytree(folder / "train2017", folder / "val2017")
    shutil.copy(*(folder / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")))
    return folder


def train(fabric, name, data, output, *overrides):
    preset = load_preset(name, (*SMALL_IMAGES, *overrides))
    return preset, finetune(fabric, preset, data, output).metrics


@pytest.mark.parametrize("name", others_slow(TINY, QUICK))
def test_a_tiny_preset_trains_evaluates_and_is_loaded_again(name, fabric, shapes_dir, tmp_path):
    preset, metrics = train(
        fabric, name, shapes_dir, tmp_path / "run", "train.steps=2", "train.batch_size=2", "detector.max_detections=10"
    )
    has_masks = preset.detector.without_masks is not None
    assert {"box/AP"} | ({"mask/AP"} if has_masks else set()) <= metrics.keys()
    loaded = load_detector(tmp_path / "run").preset
    assert (loaded.detector, loaded.backbone, loaded.neck) == (preset.detector, preset.backbone, preset.neck)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_preset_overfits_eight_images(name, fabric, eight_images, tmp_path):
    # RetinaNet's towers start small and have no norm: its boxes are good early, its classes late.
    steps = 800 if name.startswith("retinanet") else 300
    recipe = (f"train.steps={steps}", f"train.eval_every={steps}", "input.flip=0", "train.warmup_steps=20")
    preset, metrics = train(fabric, name, eight_images, tmp_path / "run", *recipe)
    scores = {key: round(value, 1) for key, value in metrics.items() if key.endswith("AP50")}
    print(name, scores)
    assert scores["box/AP50"] > 90
    assert preset.detector.without_masks is None or scores["mask/AP50"] > 90
