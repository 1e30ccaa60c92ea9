import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from afictl.data import load_dataset, read_image
from afictl.data import transforms as T
from afictl.data.segmentation import draw_segmentation
from afictl.presets import InputConfig


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((427, 640), (800, 1199)),
        ((640, 427), (1199, 800)),
        ((300, 900), (444, 1333)),
        ((800, 800), (800, 800)),
        ((696, 348), (1333, 667)),
    ],
)
def test_shortest_edge_equals_detectron2(size, expected):
    assert T.shortest_edge(size, 800, 1333) == expected


def test_resize_equals_pillows_antialiased_bilinear():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((50, 33), Image.Resampling.BILINEAR)).astype(int)
    resized = T.resize_image(torch.from_numpy(pixels).permute(2, 0, 1), (33, 50)).permute(1, 2, 0).numpy()
    assert abs(resized - expected).max() <= 1


def test_boxes_are_resized_and_flipped():
    boxes = torch.tensor([[10.0, 5.0, 30.0, 15.0]])
    assert T.move_boxes(boxes, (50, 100), (100, 300)).tolist() == [[30, 10, 90, 30]]
    assert T.move_boxes(boxes, (50, 100), (100, 300), flip=True).tolist() == [[210, 10, 270, 30]]


def test_augmentation_is_drawn_from_the_generator():
    config = InputConfig(min_sizes=(10, 20, 30), flip=0.25)
    generator = torch.Generator().manual_seed(0)
    draws = [T.draw_augmentation(config, generator) for _ in range(400)]
    assert {draw.min_size for draw in draws} == {10, 20, 30}
    assert 60 < sum(draw.flip for draw in draws) < 140


@pytest.mark.parametrize("flip", [False, True])
def test_half_view_matches_full_view(shapes_dir, flip):
    dataset = load_dataset(shapes_dir, "train")
    image = read_image(dataset.image_path(0))
    full = T.to_float(T.view(image, (150, 150), flip))
    half = T.to_float(T.view(image, T.half_size((150, 150)), flip))
    assert half.shape == (3, 75, 75)
    difference = (F.avg_pool2d(full, 2) - half).abs().mean()
    mirrored_difference = (F.avg_pool2d(full, 2) - half.flip(-1)).abs().mean()
    assert difference < 0.02 < mirrored_difference / 3


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("kind", ["polygon", "rle"])
def test_masks_match_boxes(kind, flip):
    segmentation = [np.array([10, 4, 30, 4, 30, 20, 10, 20], dtype=np.float32)]
    if kind == "rle":
        bitmap = draw_segmentation(segmentation, (48, 64), (48, 64))
        segmentation = coco_mask.encode(np.asfortranarray(bitmap))
    mask = draw_segmentation(segmentation, (48, 64), (96, 160), flip)
    assert mask.shape == (96, 160)
    assert mask.dtype == np.uint8
    x1, y1, x2, y2 = T.move_boxes(torch.tensor([[10.0, 4, 30, 20]]), (48, 64), (96, 160), flip)[0].tolist()
    rows, columns = np.nonzero(mask)
    np.testing.assert_allclose(
        [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x1, y1, x2, y2], atol=1.01
    )
    np.testing.assert_allclose(mask.sum(), (x2 - x1) * (y2 - y1), rtol=0.05)


def test_targets_of_an_image_without_objects_are_empty(shapes_dir):
    dataset = load_dataset(shapes_dir, "train")
    no_objects = dataset._select(0, torch.arange(0))
    target = T.view_target(no_objects, (96, 96), (50, 60), flip=True, masks=True)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].dense().shape == (0, 50, 60)
