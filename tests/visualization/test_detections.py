"""Position and colours of drawn detections."""

import numpy as np
import pytest
import torch
from PIL import Image

from afictl.visualization import draw_detections
from afictl.visualization.detections import annotate, detections_figure
from afictl.visualization.drawing import Outline, _draw_masks, _texts
from afictl.visualization.palette import class_color

CLASSES = ["cell", "platelet"]
GREY = 128


def grey(height, width):
    return torch.full((3, height, width), GREY, dtype=torch.uint8)


def detection(boxes, labels, scores=None, masks=None):
    result = {
        "boxes": torch.tensor(boxes).reshape(-1, 4).float(),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    if scores is not None:
        result["scores"] = torch.tensor(scores)
    if masks is not None:
        result["masks"] = masks
    return result


def count(picture, color):
    return int((np.asarray(picture) == color).all(axis=2).sum())


@pytest.mark.parametrize(("height", "width"), [(48, 64), (480, 640), (2000, 1500), (30, 900)])
def test_small_images_are_enlarged_and_large_ones_reduced(height, width):
    picture = draw_detections(grey(height, width), detection([[2, 2, 20, 20]], [1], [0.9]), CLASSES, "run")
    pixels = np.asarray(picture)
    canvas = (pixels == GREY).all(axis=2)
    columns, rows = canvas.any(axis=0), canvas.any(axis=1)
    long_side = max(columns.sum(), rows.sum())
    assert 900 < long_side <= 1600
    assert picture.mode == "RGB"
    assert count(picture, class_color(1)) > 500


def test_boxes_are_drawn_at_their_pixels():
    """A box of a quarter of the image, in the lower right."""
    without = np.asarray(draw_detections(grey(960, 960), detection([], [], []), CLASSES))
    drawn = np.asarray(draw_detections(grey(960, 960), detection([[480, 480, 900, 900]], [2], [0.5]), CLASSES))
    origin = np.argwhere((without == GREY).all(axis=2)).min(axis=0)
    legend_free = drawn[: origin[0] + 960]
    ys, xs = np.nonzero((legend_free == class_color(2)).all(axis=2))
    assert xs.min() - origin[1] == pytest.approx(480, abs=2)
    assert xs.max() - origin[1] == pytest.approx(900, abs=2)
    assert ys.max() - origin[0] == pytest.approx(900, abs=2)


def test_masks_are_blended():
    mask = torch.zeros(1, 960, 960, dtype=torch.bool)
    mask[0, 300:600, 300:600] = True
    detections = detection([[300, 300, 600, 600]], [1], [0.5])
    plain = draw_detections(grey(960, 960), detections, CLASSES)
    blended = draw_detections(grey(960, 960), {**detections, "masks": mask}, CLASSES)
    changed = (np.asarray(plain) != np.asarray(blended)).any(axis=2).sum()
    assert changed == pytest.approx(300 * 300, rel=0.1)
    mixed = tuple(round(GREY + (c - GREY) * 0.45) for c in class_color(1))
    assert count(blended, mixed) > 0.8 * 300 * 300


def test_ground_truth_adds_a_panel():
    detections = {name: detection([[10, 10, 40, 40]], [1], [0.7]) for name in ("nearest", "afi")}
    truth = {**detection([[10, 10, 40, 40], [5, 5, 60, 60]], [1, 2]), "crowd": torch.tensor([False, True])}
    image = grey(96, 96)
    three = detections_figure("", image, {"Ground truth": truth, **detections}, CLASSES).draw()
    two = detections_figure("", image, detections, CLASSES).draw()
    one = draw_detections(image, truth, CLASSES, "Ground truth")
    assert three.height == two.height == one.height
    assert three.width - two.width == two.width - one.width > 960
    assert count(three, class_color(2)) > 0
    assert count(two, class_color(2)) == 0


def test_many_panels_wrap_into_rows():
    detections = {f"run {i}": detection([], [], []) for i in range(5)}
    picture = detections_figure("", grey(96, 96), detections, CLASSES).draw()
    assert picture.width < 5 * 960
    assert picture.height > 2 * 960


def test_many_detections_of_every_score_and_size_are_drawn():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(100, 2, generator=generator) * 100 - 5
    boxes = torch.cat([corners, corners + torch.rand(100, 2, generator=generator) * 40], dim=1)
    detections = {
        "boxes": boxes,
        "labels": torch.randint(1, 3, (100,), generator=generator),
        "scores": torch.rand(100, generator=generator),
    }
    assert draw_detections(grey(80, 100), detections, CLASSES).width > 960


@pytest.mark.parametrize("rectangle", [(0, 0, 30, 40), (20, 10, 21, 11), (3, 5, 17, 40), (0, 39, 30, 40)])
@pytest.mark.parametrize("size", [(30, 40), (2000, 2600)])
def test_a_mask_equals_one_resized_to_the_whole_picture(rectangle, size):
    """Only a part of the picture is drawn, for speed; the reference resizes the whole mask."""
    y0, x0, y1, x1 = (round(side * size[0] / 30) for side in rectangle)
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, y0:y1, x0:x1] = True
    canvas = Image.new("RGB", (1200, 900), (GREY,) * 3)
    outline = Outline.of((0, 0, 1200, 900), class_color(1), False, canvas.size)
    drawn = np.asarray(_draw_masks(canvas, [(mask[0], outline)]))
    reference = Image.fromarray(mask[0].numpy().astype(np.uint8) * 255).resize((1200, 900), Image.Resampling.BILINEAR)
    changed = (drawn != GREY).any(axis=2)
    assert (changed == (np.asarray(reference) > 127)).mean() > 0.9999


@pytest.mark.parametrize(("labels", "expected"), [([1, 2], ("a 0.50", "a", "0.50")), ([1, 1], ("a 0.50", "0.50"))])
def test_labels_lose_the_score_before_the_class(labels, expected):
    assert _texts(detection([[0, 0, 9, 9]] * 2, labels, [0.5, 0.6]), ["a", "b"])[0] == expected


def test_a_box_on_the_border_is_drawn_inside():
    """All four sides of a box of the size of the image, or larger, are visible."""
    picture = np.asarray(draw_detections(grey(960, 960), detection([[-3, -3, 970, 970]], [1], [0.5]), CLASSES))
    orange = (picture == class_color(1)).all(axis=2)
    top, left = np.argwhere(orange).min(axis=0)
    for y, x in ((top, left + 800), (top + 957, left + 100), (top + 480, left), (top + 480, left + 957)):
        assert orange[y, x]


@pytest.mark.parametrize("draw", [annotate, draw_detections])
@pytest.mark.parametrize("scores", [None, [0.9, 0.8, 0.7]])
def test_outlines_labels_and_masks_do_not_hide_small_objects(draw, scores):
    """Three neighbours of 13 pixels, as vehicles seen from above: every pixel of them stays as it is."""
    boxes = [[500, 500, 513, 513], [520, 505, 533, 518], [498, 530, 511, 543]]
    image = grey(1024, 1024)
    masks = torch.zeros(3, 1024, 1024, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
        image[:, y0:y1, x0:x1] = 77
    picture = draw(image, detection(boxes, [1, 2, 1], scores, masks), CLASSES)
    assert count(picture, (77, 77, 77)) == 3 * 13 * 13
    assert count(picture, class_color(1)) > 2 * 4 * 13  # and the outlines are there


def test_labels_of_small_objects_name_the_class_only_where_no_legend_does():
    small, alone = [[500, 500, 513, 513]], grey(1024, 1024)
    outline = count(annotate(alone, detection(small, [1]), [" "]), class_color(1))
    assert count(annotate(alone, detection(small, [1]), ["vehicle"]), class_color(1)) > outline + 500
    with_legend = count(draw_detections(alone, detection(small, [1]), ["vehicle"]), class_color(1))
    assert with_legend < outline + 1000  # the square of the legend
