import numpy as np
import pytest
from pycocotools import mask as coco_mask

from afictl.data.segmentation import draw_segmentation
from afictl.data.tile_objects import object_parts
from afictl.data.tiles import Tile, Tiling

SIZE = (64, 96)
TILES = [Tile(0, 0, 48, 64), Tile(48, 0, 96, 64)]


def parts_of(xywh, segmentation=None, tiles=TILES):
    return list(object_parts(np.array(xywh, dtype=float), segmentation, SIZE, tiles))


def polygon(*numbers):
    return [np.array(numbers, dtype=float)]


def test_a_box_is_clipped_to_each_tile_and_moved():
    left, right = parts_of([38.5, 10, 40, 20.25])
    assert (left.tile, left.xywh, left.segmentation) == (0, [38.5, 10, 9.5, 20.25], None)
    assert (right.tile, right.xywh) == (1, [0, 10, 30.5, 20.25])
    assert left.visible == pytest.approx(9.5 / 40)
    assert left.visible + right.visible == pytest.approx(1)


def test_what_is_outside_of_the_image_does_not_count():
    (part,) = parts_of([90, -10, 20, 20])
    assert (part.tile, part.xywh, part.visible) == (1, [42, 0, 6, 10], 1.0)
    assert parts_of([100, 10, 20, 20]) == []
    assert parts_of([10, 10, 0, 20]) == []


def test_a_polygon_is_clipped_and_its_share_is_that_of_its_area():
    triangle = polygon(40, 10, 64, 10, 40, 34)  # of 288 square pixels, 128 of them from x = 48 on
    left, right = parts_of([40, 10, 24, 24], triangle)
    assert right.segmentation == [[0, 10, 16, 10, 0, 26]]
    assert right.xywh == [0, 10, 16, 16]  # shorter than the part of the box
    assert right.visible == pytest.approx(128 / 288)
    assert left.xywh == [40, 10, 8, 24]
    assert left.visible == pytest.approx(160 / 288)


def test_a_tile_without_a_pixel_of_the_mask_has_no_part():
    (part,) = parts_of([40, 10, 24, 24], polygon(40, 10, 46, 10, 40, 34))
    assert part.tile == 0
    assert part.visible == 1


def test_a_concave_polygon_and_run_lengths_cover_the_same_pixels_as_before():
    horseshoe = polygon(30, 5, 70, 5, 70, 20, 40, 20, 40, 40, 70, 40, 70, 55, 30, 55)
    bitmap = draw_segmentation(horseshoe, SIZE, SIZE)
    runs = coco_mask.encode(np.asfortranarray(bitmap))
    tiles = Tiling(32, 0.2).tiles(SIZE)
    for segmentation in (horseshoe, runs):
        parts = parts_of([30, 5, 40, 50], segmentation, tiles)
        assert len(parts) > 4
        for part in parts:
            tile = tiles[part.tile]
            expected = bitmap[tile.top : tile.bottom, tile.left : tile.right]
            if isinstance(part.segmentation, dict):
                drawn = coco_mask.decode({**part.segmentation, "counts": part.segmentation["counts"].encode()})
            else:
                drawn = draw_segmentation(list(map(np.array, part.segmentation)), (32, 32), (32, 32))
            assert np.array_equal(drawn, expected)
            assert part.visible == pytest.approx(expected.sum() / bitmap.sum())
            rows, columns = np.nonzero(expected)
            extent = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert part.xywh == extent


def test_a_mask_without_area_counts_as_absent():
    left, right = parts_of([40, 10, 16, 16], polygon(40, 10, 50, 10, 60, 10))
    assert left.segmentation is right.segmentation is None
    assert left.visible == 0.5
