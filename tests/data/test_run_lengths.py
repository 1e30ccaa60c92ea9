"""Areas and validity of compressed run lengths, against pycocotools and a decoder of single characters."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from afictl.data.run_lengths import run_ends, run_length_areas


def areas_of(packed, pixels):
    return run_length_areas(
        b"".join(packed), np.array([len(counts) for counts in packed], dtype=np.int64), pixels
    ).tolist()


def packed_masks(rng, count):
    """Run lengths and sizes of random masks, among them empty, full and very wide ones."""
    masks = []
    for k in range(count):
        height, width = rng.integers(1, 40), rng.integers(1, 40) * (400 if k % 7 == 0 else 1)
        mask = np.zeros((height, width), dtype=np.uint8)
        if k % 5:
            mask[rng.integers(height) :, : rng.integers(1, width + 1)] = 1
        if k % 3 == 0:
            mask ^= rng.random(mask.shape) < rng.choice([0.01, 0.5])
        masks.append(mask)
    return [coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks], masks


def reference_area(packed, pixels):
    """The area of one mask, decoded character by character; -1 if its run lengths are invalid."""
    runs, value, shift = [], 0, 0
    for character in packed:
        bits = character - 48  # six of them
        if not 0 <= bits <= 63 or shift > 30:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if bits < 32:
            value -= (bits & 16 and 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    is_valid = packed and not shift and min(runs) >= 0 and sum(runs) == pixels
    return sum(runs[1::2]) if is_valid else -1


@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_those_of_decoded_masks(seed):
    packed, masks = packed_masks(np.random.default_rng(seed), 60)
    areas = areas_of(packed, np.array([mask.size for mask in masks]))
    assert areas == [int(mask.sum()) for mask in masks]
    for ends, mask in zip(run_ends(packed), masks, strict=True):
        pixels = np.repeat(np.arange(len(ends)) % 2, np.diff(ends, prepend=0))
        assert (pixels == mask.ravel(order="F")).all()


@pytest.mark.parametrize("seed", range(3))
def test_damaged_run_lengths_are_detected(seed):
    rng = np.random.default_rng(seed)
    packed, masks = packed_masks(rng, 200)
    pixels = np.array([mask.size for mask in masks])
    for k in range(0, 200, 2):
        damaged = bytearray(packed[k])
        position = int(rng.integers(len(damaged)))
        kind = int(rng.integers(4))
        if kind == 0:
            damaged[position] = int(rng.integers(256))
        elif kind == 1:
            damaged = damaged[:position]
        elif kind == 2:
            damaged = damaged[:position] + b"oooooooo" + damaged[position:]
        else:
            pixels[k] += 1
        packed[k] = bytes(damaged)
    expected = [reference_area(counts, size) for counts, size in zip(packed, pixels, strict=True)]
    assert areas_of(packed, pixels) == expected
    assert 50 < expected.count(-1) < 110


def test_truncated_mask_does_not_affect_the_next():
    sound = coco_mask.encode(np.asfortranarray(np.eye(300, dtype=np.uint8)))["counts"]
    areas = areas_of([b"o" * 12, sound, b"0" + b"o" * 6, sound], np.full(4, 300 * 300))
    assert areas == [-1, 300, -1, 300]


@pytest.mark.parametrize("packed", [b"", b"o" * 3, b"\x10", b"o" * 8 + b"0"])
def test_invalid_run_lengths_are_an_error(packed):
    sound = coco_mask.encode(np.asfortranarray(np.eye(9, dtype=np.uint8)))["counts"]
    for masks in ([packed], [packed, sound], [sound, packed]):
        with pytest.raises(ValueError, match=r"RLE|32 bits"):
            run_ends(masks)


def test_areas_of_no_masks():
    assert areas_of([], np.zeros(0, dtype=np.int64)) == []
    assert areas_of([b""], np.array([4])) == [-1]
