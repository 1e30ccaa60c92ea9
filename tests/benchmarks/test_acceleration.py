import torch
from torch import nn

from afictl import build_detector, load_preset
from afictl.training import compilation
from afictl.training.compilation import Part
from benchmarks.acceleration import time_optimizers, time_parts
from tests.helpers.tiny_runs import SMALL


def test_parts_and_optimizers_are_timed_without_and_with(monkeypatch):
    monkeypatch.setattr(compilation, "_COMPILER", {"backend": "eager"})
    module = nn.Linear(4, 4)
    figures = time_parts("training", [Part("layer", module, lambda: module(torch.ones(2, 4)).sum().backward())], 2)
    figures += time_optimizers(build_detector(load_preset("mask-rcnn-r18-fpn-tiny", SMALL), 3, "nearest"), 2)
    assert [row["name"] for row in figures] == ["training, layer", "step of sgd, fused", "step of adamw, fused"]
    assert all(row["without"] > 0 < row["with"] and row["ratio"] > 0 for row in figures)
