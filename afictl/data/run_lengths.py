"""Vectorized decoding of COCO's compressed run lengths.

The format: a character holds six bits, offset by ``0``. Five bits are part of a number, lowest first, and the sixth is
set if the number continues; the highest bit of its last character is the sign. From the fourth run on a number is the
difference to the run before the last. Runs of unset and set pixels alternate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MAX_CHARACTERS = 7
"""Of one number: 35 bits; a run has at most 32."""


def run_length_areas(packed: bytes, sizes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Number of set pixels of each mask; -1 where its run lengths are not valid or do not sum to its image.

    Args:
        packed: the concatenated ``counts`` of n masks.
        sizes: (n,) int64, bytes of each.
        pixels: (n,) int64, height x width of each.

    Returns:
        (n,) int64.
    """
    codes = _codes(packed)
    is_valid = _are_complete(codes, sizes) if len(codes) else np.zeros(len(sizes), dtype=bool)
    if not is_valid.all():
        codes = codes[np.repeat(is_valid, sizes)]
    areas = np.full(len(sizes), -1, dtype=np.int64)
    if len(codes):
        areas[is_valid] = _areas(codes, sizes[is_valid], pixels[is_valid])
    return areas


def run_ends(packed: Sequence[bytes]) -> np.ndarray:
    """Ends of the runs of several masks, in pixels from the start of each mask.

    Returns:
        (n,m) int64, m even: unset and set runs alternate; a mask of fewer runs is padded with empty ones.

    Raises:
        ValueError: not compressed run lengths.
    """
    sizes = np.fromiter(map(len, packed), dtype=np.int64, count=len(packed))
    codes = _codes(b"".join(packed))
    if not len(codes) or not _are_complete(codes, sizes).all():
        raise ValueError("not a compressed RLE")
    starts, lengths = _numbers(codes)
    if lengths.max() > _MAX_CHARACTERS:
        raise ValueError("a run of more than 32 bits")
    counts = np.diff(np.searchsorted(starts, sizes.cumsum()), prepend=0)
    max_count = counts.max()
    exists = np.arange(max_count + max_count % 2) < counts[:, None]
    runs = np.zeros(exists.shape, dtype=np.int64)
    runs[exists] = _values(codes, starts, lengths)
    for parity in (runs[:, 1::2], runs[:, 2::2]):
        parity.cumsum(axis=1, out=parity)
    runs[~exists] = 0
    return runs.cumsum(axis=1)


def _codes(packed: bytes) -> np.ndarray:
    return np.frombuffer(packed, dtype=np.uint8) - np.uint8(48)  # a character before 0 becomes more than 63


def _numbers(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and number of characters of each number."""
    ends = np.flatnonzero(codes < 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    return starts, ends - starts + 1


def _are_complete(codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether each mask ends with a complete number and has only valid characters, bool (n,)."""
    ends = np.cumsum(sizes)
    is_valid = (sizes > 0) & (codes[ends - 1] < 32)
    invalid = np.flatnonzero(codes > 63)
    is_valid[np.searchsorted(ends, invalid, side="right")] = False
    return is_valid


def _areas(codes: np.ndarray, sizes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    starts, lengths = _numbers(codes)
    values = _values(codes, starts, lengths)
    ends = np.searchsorted(starts, np.cumsum(sizes))  # number of runs up to the end of each mask
    counts = np.diff(ends, prepend=0)
    first = ends - counts
    is_set = (np.arange(len(values)) - np.repeat(first, counts)) % 2 == 1
    areas, negative_set = _sum_runs(values[is_set], counts // 2)
    start = values[first].copy()
    values[first] = 0  # the third run is not a difference to the first
    unset_areas, negative_unset = _sum_runs(values[~is_set], counts - counts // 2)
    is_invalid = (start < 0) | (areas + unset_areas + start != pixels)
    too_long = np.searchsorted(ends, np.flatnonzero(lengths > _MAX_CHARACTERS), side="right")
    is_invalid[[*negative_set, *negative_unset, *too_long]] = True
    return np.where(is_invalid, -1, areas)


def _values(codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The signed numbers, int64; undefined where one has too many characters."""
    values = (codes[starts] & 31).astype(np.int64)
    for position in range(1, min(int(lengths.max()), _MAX_CHARACTERS)):
        longer = np.flatnonzero(lengths > position)
        values[longer] |= (codes[starts[longer] + position] & 31).astype(np.int64) << (5 * position)
    negative = np.flatnonzero(codes[starts + lengths - 1] & 16)
    values[negative] -= np.int64(1) << (5 * np.minimum(lengths[negative], _MAX_CHARACTERS))
    return values


def _sum_runs(differences: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each mask's set or unset runs, given as differences; and the masks that have a negative one."""
    ends = np.cumsum(counts)
    total = np.concatenate(([0], np.cumsum(differences)))
    runs = total[1:] - np.repeat(total[ends - counts], counts)
    sums = np.concatenate(([0], np.cumsum(runs)))
    return sums[ends] - sums[ends - counts], np.searchsorted(ends, np.flatnonzero(runs < 0), side="right")
