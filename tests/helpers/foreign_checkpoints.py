"""Checkpoints as other projects write them."""

import math
import pickle
from pathlib import Path

import torch
from torch import Tensor

from afictl.detectors import Detector
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.layouts.detectron2_names import detector_key
from tests.helpers.golden_files import read_keys

MEAN = torch.tensor([123.675, 116.28, 103.53])


def shapes_only(key_list: str) -> dict[str, Tensor]:
    """Every tensor of a list in ``golden/keys`` with its shape and no memory: an expanded zero."""
    return {
        name: torch.zeros((), dtype=torch.float32 if key.is_float else torch.int64).expand(key.shape)
        for name, key in read_keys(key_list).items()
    }


def as_checkpoint(tensors: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("foreign.pth"), tensors, {})


def save_pkl(path: Path, tensors: dict[str, Tensor]) -> None:
    """As detectron2's model zoo."""
    with path.open("wb") as file:
        pickle.dump({"model": {k: v.numpy() for k, v in tensors.items()}, "__author__": "Detectron2 Model Zoo"}, file)


def to_detectron2(detector: Detector) -> dict[str, Tensor]:
    """The weights of a detector with a plain ResNet, under detectron2's names and in its conventions."""
    foreign = {}
    for name, value in detector.state_dict().items():
        key = detector_key(name, detector.preset)
        if key is None:
            continue
        if name == "backbone.net.conv1.weight":
            value = (value / (255 * torch.tensor(detector.input.std).view(1, 3, 1, 1))).flip(1)
        if "cls_score" in name and not key.startswith("head."):
            value = value.roll(-1, 0)
        foreign[key] = value.clone()
    return foreign | cell_anchors(detector.preset.detector.anchor_sizes)


def cell_anchors(sizes: tuple[float, ...], ratios: tuple[float, ...] = (0.5, 1.0, 2.0)) -> dict[str, Tensor]:
    """The buffers of older detectron2: anchors (A, 4) around the origin, of each level."""
    cells = {}
    for level, size in enumerate(sizes):
        sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in ratios]
        anchors = [[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides]
        cells[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = torch.tensor(anchors)
    return cells
