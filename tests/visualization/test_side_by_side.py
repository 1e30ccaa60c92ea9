"""Marks of detections that another detector misses."""

import numpy as np
import pytest
import torch
from PIL import Image

from afictl.visualization.palette import class_color
from afictl.visualization.pictures import Picture
from afictl.visualization.side_by_side import side_by_side_figures

BOXES = torch.tensor([[5.0, 5, 40, 40], [50, 50, 90, 90], [60, 5, 90, 30]])


class FixedDetectors:
    """``NamedDetectors`` with fixed scores of the three boxes."""

    classes = ("cell",)

    def __init__(self, **scores):
        self.detectors = dict.fromkeys(scores, self)
        self.scores = scores

    def detect(self, name, image, threshold, drawn_hw):
        scores = torch.tensor(self.scores[name])
        selection = scores >= threshold
        return {
            "boxes": BOXES[selection],
            "labels": torch.ones(int(selection.sum()), dtype=torch.int64),
            "scores": scores[selection],
        }


@pytest.fixture
def draw(tmp_path):
    Image.new("RGB", (100, 100), (128, 128, 128)).save(tmp_path / "image.png")

    def draw_panels(**scores):
        (figure,) = side_by_side_figures(FixedDetectors(**scores), [Picture("image", tmp_path / "image.png")], 0.5)
        return figure.panels

    return draw_panels


def count_outline(panel):
    return int((np.asarray(panel.picture) == class_color(1)).all(axis=2).sum())


def test_detections_that_another_detector_misses_are_marked(draw):
    """The second box has a partner below the threshold, and the third is below it."""
    panels = draw(a=[0.9, 0.8, 0.4], b=[0.2, 0.3, 0.1])
    assert [panel.note for panel in panels] == ["2 detections, 1 absent from another panel (*)", "0 detections"]
    equal = draw(a=[0.9, 0.8, 0.4], b=[0.9, 0.8, 0.4])
    assert [panel.note for panel in equal] == ["2 detections"] * 2
    assert count_outline(panels[0]) > 1.3 * count_outline(equal[0])  # a wider line


def test_a_single_detector_has_no_marks(draw):
    (panel,) = draw(a=[0.9, 0.8, 0.6])
    assert panel.note == "3 detections"
