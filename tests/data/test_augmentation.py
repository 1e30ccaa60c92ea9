"""Copy-paste, scale jitter and colour jitter: boxes, masks and both views of a sample stay together."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from afictl import UserError, load_preset
from afictl.data import load_dataset, read_image, train_batches
from afictl.data.augmentation import AnnotatedImage, paste_objects, random_crop
from afictl.data.segmentation import draw_segmentation
from afictl.presets import InputConfig

CONFIG = InputConfig(
    min_sizes=(64, 80), max_size=160, test_size=72, scale_jitter=(0.5, 2), color_jitter=0.5, copy_paste=0.8
)


@pytest.fixture
def dataset(shapes_dir):
    return load_dataset(shapes_dir, "train")


@pytest.fixture
def source(dataset):
    return lambda i: AnnotatedImage(read_image(dataset.image_path(i)), dataset.training_objects(i, masks=True))


def assert_boxes_enclose_masks(boxes, masks, atol):
    assert len(boxes) == len(masks)
    for box, mask in zip(boxes.tolist(), masks, strict=True):
        if min(box[2] - box[0], box[3] - box[1]) < 5:  # of a few pixels
            continue
        rows, columns = np.nonzero(np.asarray(mask))
        np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], box, atol=atol)


def bitmaps(image):
    return [draw_segmentation(outline, image.size_hw, image.size_hw) for outline in image.objects.segmentations]


def test_both_views_show_the_same_and_depend_on_the_step_alone(dataset):
    options = {"seed": 1, "half_view": True, "masks": True}
    batches = list(islice(train_batches(dataset, CONFIG, 4, workers=0, **options), 4))
    (later,) = islice(train_batches(dataset, CONFIG, 4, workers=1, start_step=3, **options), 1)
    sizes = set()
    for batch in batches:
        samples = zip(batch.images, batch.targets, batch.half_images, batch.half_targets, strict=True)
        for image, target, half, half_target in samples:
            sizes.add(image.shape[1])
            height, width = half.shape[1:]
            reduced = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
            assert (reduced - half).abs().mean() < 0.03
            ratio = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
            torch.testing.assert_close(half_target["boxes"], target["boxes"] * ratio)
            assert half_target["labels"].equal(target["labels"])
            assert_boxes_enclose_masks(half_target["boxes"], half_target["masks"], atol=2)
    assert min(sizes) < 64 < max(sizes) <= 80
    assert all(a.equal(b) for a, b in zip(batches[3].images, later.images, strict=True))
    assert all(a["boxes"].equal(b["boxes"]) for a, b in zip(batches[3].targets, later.targets, strict=True))


def test_a_crop_keeps_what_is_visible(source):
    whole, generator = source(0), torch.Generator().manual_seed(0)
    counts = set()
    for _ in range(20):
        crop = random_crop(whole, 0.5, generator, masks=True)
        assert crop.size_hw == (48, 48)
        assert (crop.objects.boxes >= 0).all()
        assert (crop.objects.boxes <= 48).all()
        assert_boxes_enclose_masks(crop.objects.boxes, bitmaps(crop), atol=1.5)
        counts.add(len(crop.objects.labels))
    assert min(counts) >= 1
    boxes = random_crop(whole, 0.5, generator, masks=False).objects
    assert boxes.segmentations == [None] * len(boxes.boxes)


def test_pasted_objects_hide_those_below(source):
    target, other = source(0), source(1)
    pasted = paste_objects(target, other, 0.0, torch.Generator().manual_seed(2))
    masks = bitmaps(pasted)
    assert_boxes_enclose_masks(pasted.objects.boxes, masks, atol=1.5)
    changed = (pasted.image != target.image).any(dim=0).numpy()
    num_below = sum(i in target.objects.ids.tolist() for i in pasted.objects.ids.tolist())
    above = np.any(masks[num_below:], axis=0)
    assert above.any()
    assert not (changed & ~above).any()
    shift_free = paste_objects(target, target, 0.0, torch.Generator().manual_seed(2))
    assert shift_free.image.equal(target.image)  # of the same size, an image has one place


def test_copy_paste_needs_masks_and_a_range_rises(write_coco):
    boxes = write_coco([{"segmentation": []}])
    dataset = load_dataset(boxes, "train")
    with pytest.raises(UserError, match=r"no object has a mask; train without input\.copy_paste"):
        train_batches(dataset, CONFIG, 1, seed=0)
    with pytest.raises(UserError, match=r"input\.scale_jitter: .*\[2, 1\]"):
        load_preset("faster-rcnn-r50-fpn", ["input.scale_jitter=[2,1]"])
    with pytest.raises(UserError, match=r"input\.scale_jitter\.0: .*0\.05"):
        load_preset("faster-rcnn-r50-fpn", ["input.scale_jitter=[0.01,1]"])
