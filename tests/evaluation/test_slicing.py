"""Detection in tiles: objects across the borders of tiles, their masks, and images within one tile."""

import pytest
import torch

from afictl.data.tiles import Tiling
from afictl.data.transforms import resize_for
from afictl.detectors import Detector, build_detector, to_original
from afictl.errors import UserError
from afictl.evaluation.slicing import Slicing, detect_sliced
from tests.helpers.narrow_presets import narrow_preset

OVERRIDES = ("input.test_size=64", "input.max_size=160", "detector.max_detections=20")
GRID = 28


class Painted(Detector):
    """A detector of areas of one value: its class is the value modulo 2, its score the seen number of pixels."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.preset = narrow_preset("mask-rcnn-r18-fpn-tiny", *OVERRIDES)
        self.input = self.preset.input
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def detect(self, images, masks=True):
        self.batches.append([tuple(image.shape[1:]) for image in images])
        return [self._detect((image[0] * 255).round()) for image in images]

    def _detect(self, pixels):
        boxes, labels, scores, probs = [], [], [], []
        for value in pixels.unique().tolist():
            if value:
                y, x = (pixels == value).nonzero().T
                top, left, bottom, right = int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1
                boxes.append([left, top, right, bottom])
                labels.append(int(value) % 2 + 1)
                scores.append(len(y) / pixels.numel())
                crop = (pixels[top:bottom, left:right] == value).float()[None, None]
                probs.append(torch.nn.functional.interpolate(crop, (GRID, GRID), mode="bilinear")[0, 0])
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "mask_probs": torch.stack(probs) if probs else torch.zeros(0, GRID, GRID),
        }


def paint(*boxes, size_hw=(64, 150)):
    image = torch.zeros(3, *size_hw, dtype=torch.uint8)
    for value, (left, top, right, bottom) in enumerate(boxes, start=1):
        image[:, top:bottom, left:right] = 2 * value
    return image


# Tiles of 64 pixels in 150 start at 0, 43 and 86.
OBJECTS = {
    "complete in one tile": [(10, 5, 30, 20)],
    "complete in the next tile": [(50, 5, 70, 20)],
    "complete in two tiles": [(45, 5, 62, 20)],
    "larger than a tile": [(20, 30, 140, 50)],
    "touching a border of the image": [(0, 0, 30, 20), (120, 40, 150, 64)],
    "side by side at a border": [(98, 5, 104, 15), (105, 5, 111, 15), (112, 5, 118, 15)],
    "one over the other at a border": [(50, 5, 90, 20), (50, 21, 90, 36)],
    "nothing": [],
}


@pytest.mark.parametrize("whole_image", [False, True])
@pytest.mark.parametrize("objects", OBJECTS.values(), ids=OBJECTS)
def test_objects_across_borders_are_detected_once_and_completely(objects, whole_image):
    slicing = Slicing(Tiling(64, 0.2), whole_image=whole_image, batch_size=2)
    detector = Painted()
    detection = detect_sliced(detector, paint(*objects), slicing)
    assert sorted(map(tuple, detection["boxes"].tolist())) == sorted(objects)
    assert detection["scores"].tolist() == sorted(detection["scores"].tolist(), reverse=True)
    assert detection["labels"].tolist() == [1] * len(objects)
    assert detector.batches == [[(64, 64)] * 2, [(64, 64)]] + [[(64, 150)]] * whole_image


def test_masks_of_parts_become_one():
    image = paint(size_hw=(64, 150))
    for x in range(20, 140):  # an ellipse
        half = 20 * (1 - ((x + 0.5 - 80) / 60) ** 2) ** 0.5
        image[:, round(32 - half) : round(32 + half), x] = 9
    detector = Painted()
    detection = detect_sliced(detector, image, Slicing(Tiling(64, 0.2), whole_image=False))
    (mask,) = detector.paste_masks(detection["mask_probs"], detection["boxes"], (64, 150))
    expected = image[0] > 0
    assert detection["labels"].tolist() == [2]
    assert (mask & expected).sum() / (mask | expected).sum() > 0.95


def test_the_limit_of_detections_is_that_of_an_image():
    boxes = [(x, y, x + 4, y + 4) for x in range(2, 140, 8) for y in (10, 30, 50)]
    detection = detect_sliced(Painted(), paint(*boxes), Slicing(Tiling(64, 0.2)))
    assert len(detection["boxes"]) == 20


@torch.no_grad()
@pytest.mark.parametrize("size_hw", [(64, 64), (50, 40)])
def test_an_image_within_a_tile_is_detected_in_as_without_tiles(size_hw):
    torch.manual_seed(0)
    preset = narrow_preset("mask-rcnn-r18-fpn-tiny", *OVERRIDES, "detector.score_threshold=0.0")
    detector = build_detector(preset, 3, "nearest").eval()
    image = torch.randint(0, 256, (3, *size_hw), dtype=torch.uint8)
    resized = resize_for(detector.input, image)
    (plain,) = detector.detect([resized])
    expected = to_original(plain, tuple(resized.shape[1:]), size_hw)
    detection = detect_sliced(detector, image, Slicing(Tiling(64)))
    assert len(expected["boxes"]) > 5
    assert detection.keys() == expected.keys()
    assert all(detection[name].equal(value) for name, value in expected.items())
    sliced = detect_sliced(detector, image, Slicing(Tiling(32, 0.0)))
    assert sliced.keys() == expected.keys()


def test_another_module_is_refused():
    with pytest.raises(UserError, match="Linear"):
        detect_sliced(torch.nn.Linear(1, 1), paint(), Slicing(Tiling(64)))
