import shutil

import pytest
import torch
import typer
import yaml

from afictl.data import load_dataset
from afictl.data.shapes import make_shapes
from afictl.detectors import build_detector
from afictl.presets import load_preset
from afictl.weights import save_detector


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=4, size=96)


@pytest.fixture(scope="session")
def untrained_detector(tmp_path_factory, shapes):
    """A run folder with an untrained Mask R-CNN, which has detections everywhere; not to be written to."""
    torch.manual_seed(0)
    settings = [
        "backbone.name=test_resnet",
        "input.min_sizes=[96]",
        "input.test_size=96",
        "detector.score_threshold=0.0",
        "detector.max_detections=20",
        "detector.proposals_test=60",
        "loader.workers=0",
    ]
    index = load_dataset(shapes, "val")
    preset = load_preset("mask-rcnn-r18-fpn-tiny", settings)
    detector = build_detector(preset, num_classes=len(index.classes), interpolator="nearest")
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    folder.mkdir()
    metadata = {
        "classes": list(index.classes),
        "category_ids": list(index.category_ids),
        "step": 0,
        "metrics": {},
    }
    save_detector(folder / "best.safetensors", detector, metadata)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": str(shapes)}))
    return folder


@pytest.fixture
def untrained_run(tmp_path, untrained_detector):
    """A copy of the untrained detector."""
    return shutil.copytree(untrained_detector, tmp_path / "runs" / "untrained")


def commands(app):
    """All commands of the program with their words on the command line."""

    def inside(group, words):
        for name, command in group.commands.items():
            path = [*words, name]
            yield from inside(command, path) if hasattr(command, "commands") else [(" ".join(path), command)]

    return list(inside(typer.main.get_command(app), []))
