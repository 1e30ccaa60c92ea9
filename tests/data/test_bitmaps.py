import numpy as np
import pytest
from pycocotools import mask as coco_mask

from afictl.data.bitmaps import draw_bitmaps
from afictl.data.segmentation import draw_segmentation

SIZE_HW = (48, 64)


def outlines(number):
    rng = np.random.default_rng(0)
    for _ in range(number):
        parts = rng.integers(1, 3)
        yield [(rng.normal(30, 25, 2 * rng.integers(3, 12))).astype(np.float32) for _ in range(parts)]  # also outside


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("target_hw", [(48, 64), (111, 150), (7, 5), (1, 1)])
def test_cropped_masks_equal_dense_masks(target_hw, flip):
    polygons = list(outlines(40))
    runs = [
        coco_mask.encode(np.asfortranarray(draw_segmentation(polygon, SIZE_HW, SIZE_HW))) for polygon in polygons[:20]
    ]
    corner = [np.array([-9, -9, -1, -9, -1, -1], dtype=np.float32)]  # nothing of it is inside
    segmentations = [*polygons, *runs, corner]
    bitmaps = draw_bitmaps(segmentations, SIZE_HW, target_hw, flip)
    dense = bitmaps.dense()
    assert dense.shape == (len(segmentations), *target_hw)
    for mask, segmentation in zip(dense.numpy(), segmentations, strict=True):
        np.testing.assert_array_equal(mask, draw_segmentation(segmentation, SIZE_HW, target_hw, flip))
    assert bitmaps.bits.nbytes < dense.nbytes / 8 + 1


def test_no_objects_give_no_masks():
    assert draw_bitmaps([], SIZE_HW, (30, 40)).dense().shape == (0, 30, 40)
