"""Detectors side by side: what one finds and another lacks is marked."""

import numpy as np
import pytest
import torch
from PIL import Image

from afictl.visualization.comparisons import comparison_figures
from afictl.visualization.pictures import Picture
from afictl.visualization.style import class_color

BOXES = torch.tensor([[5.0, 5, 40, 40], [50, 50, 90, 90], [60, 5, 90, 30]])


class Found:
    """As contenders, with what each finds given by its scores of the three boxes."""

    classes = ("cell",)

    def __init__(self, **scores):
        self.detectors = dict.fromkeys(scores, self)
        self.scores = scores

    def find(self, name, image, threshold, drawn_hw):
        scores = torch.tensor(self.scores[name])
        kept = scores >= threshold
        return {"boxes": BOXES[kept], "labels": torch.ones(int(kept.sum()), dtype=torch.int64), "scores": scores[kept]}


@pytest.fixture
def draw(tmp_path):
    Image.new("RGB", (100, 100), (128, 128, 128)).save(tmp_path / "image.png")

    def drawn(**scores):
        (figure,) = comparison_figures(Found(**scores), [Picture("image", tmp_path / "image.png")], 0.5)
        return figure.panels

    return drawn


def outline(panel):
    return int((np.asarray(panel.picture) == class_color(1)).all(axis=2).sum())


def test_what_another_lacks_is_marked(draw):
    """The second box of the first is found by the other below the threshold, and the third is below it."""
    panels = draw(a=[0.9, 0.8, 0.4], b=[0.2, 0.3, 0.1])
    assert [panel.note for panel in panels] == ["2 detections, 1 not found by all (*)", "0 detections"]
    same = draw(a=[0.9, 0.8, 0.4], b=[0.9, 0.8, 0.4])
    assert [panel.note for panel in same] == ["2 detections"] * 2
    assert outline(panels[0]) > 1.3 * outline(same[0])  # a wider line


def test_one_detector_alone_has_no_marks(draw):
    (panel,) = draw(a=[0.9, 0.8, 0.6])
    assert panel.note == "3 detections"
