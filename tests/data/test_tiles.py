from itertools import pairwise

import pytest

from afictl.data.tiles import Tile, Tiling
from afictl.errors import UserError


def test_tiles_are_evenly_spaced_from_border_to_border():
    assert Tiling(512, 0.2).tiles((512, 1024)) == [(0, 0, 512, 512), (256, 0, 768, 512), (512, 0, 1024, 512)]
    assert [tile.left for tile in Tiling(100, 0.0).tiles((50, 250))] == [0, 75, 150]
    assert Tiling(100, 0.0).tiles((200, 200)) == [
        (0, 0, 100, 100),
        (100, 0, 200, 100),
        (0, 100, 100, 200),
        (100, 100, 200, 200),
    ]


def test_an_image_within_a_tile_is_one_tile():
    assert Tiling(64).tiles((64, 40)) == [Tile(0, 0, 40, 64)]


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.55, 0.9])
@pytest.mark.parametrize("length", [65, 66, 127, 300])
def test_neighbours_overlap_at_least_by_the_fraction(length, overlap):
    tiles = Tiling(64, overlap).tiles((64, length))
    assert (tiles[0].left, tiles[-1].right) == (0, length)
    for first, second in pairwise(tiles):
        assert first.left < second.left
        assert first.right - second.left >= int(64 * overlap) - 1


@pytest.mark.parametrize(("size", "overlap", "value"), [(31, 0.2, "31"), (64, -0.1, "-0.1"), (64, 0.95, "0.95")])
def test_values_out_of_range_are_named(size, overlap, value):
    with pytest.raises(UserError, match=value):
        Tiling(size, overlap)
