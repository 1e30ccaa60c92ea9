"""COCO's compressed run lengths, read without drawing them.

The packing: six bits a character from ``0`` on, the sixth says that more follow; five bits each, low ones first, the
last one's highest bit the sign; from the fourth run on the difference to the run before the last. Runs are of unset and
set pixels in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHARACTERS = 7
"""Of one run at most: 35 bits; a run has 32."""


def run_length_areas(packed: bytes, sizes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Set pixels of each mask; -1 where its run lengths are not readable or do not make up its image.

    Args:
        packed: the ``counts`` of n masks, one behind the other.
        sizes: (n,) int64, bytes of each.
        pixels: (n,) int64, height x width of each.

    Returns:
        (n,) int64.
    """
    sixes = _sixes(packed)
    whole = _whole_runs(sixes, sizes) if len(sixes) else np.zeros(len(sizes), dtype=bool)
    if not whole.all():
        sixes = sixes[np.repeat(whole, sizes)]
    areas = np.full(len(sizes), -1, dtype=np.int64)
    if len(sixes):
        areas[whole] = _areas(sixes, sizes[whole], pixels[whole])
    return areas


def run_ends(packed: Sequence[bytes]) -> np.ndarray:
    """Where the runs of several masks end, in pixels from the start of each mask.

    Returns:
        (n,m) int64, m even: unset and set runs in turn, and behind the last one of a mask empty ones.

    Raises:
        ValueError: bytes that are no such thing.
    """
    sizes = np.fromiter(map(len, packed), dtype=np.int64, count=len(packed))
    sixes = _sixes(b"".join(packed))
    if not len(sixes) or not _whole_runs(sixes, sizes).all():
        raise ValueError("not a compressed RLE")
    starts, lengths = _numbers(sixes)
    if lengths.max() > _CHARACTERS:
        raise ValueError("a run of more than 32 bits")
    counts = np.diff(np.searchsorted(starts, sizes.cumsum()), prepend=0)
    longest = counts.max()
    exists = np.arange(longest + longest % 2) < counts[:, None]
    runs = np.zeros(exists.shape, dtype=np.int64)
    runs[exists] = _values(sixes, starts, lengths)
    for parity in (runs[:, 1::2], runs[:, 2::2]):
        parity.cumsum(axis=1, out=parity)
    runs[~exists] = 0
    return runs.cumsum(axis=1)


def _sixes(packed: bytes) -> np.ndarray:
    return np.frombuffer(packed, dtype=np.uint8) - np.uint8(48)  # a character before 0 becomes more than 63


def _numbers(sixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each number begins, and how many characters it has."""
    ends = np.flatnonzero(sixes < 32)
    starts = np.concatenate(([0], ends[:-1] + 1))
    return starts, ends - starts + 1


def _whole_runs(sixes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether each mask ends with a run and has only characters of the packing, bool (n,)."""
    ends = np.cumsum(sizes)
    whole = (sizes > 0) & (sixes[ends - 1] < 32)
    foreign = np.flatnonzero(sixes > 63)
    whole[np.searchsorted(ends, foreign, side="right")] = False
    return whole


def _areas(sixes: np.ndarray, sizes: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    starts, lengths = _numbers(sixes)
    values = _values(sixes, starts, lengths)
    after = np.searchsorted(starts, np.cumsum(sizes))  # runs up to the end of each mask
    counts = np.diff(after, prepend=0)
    first = after - counts
    is_set = (np.arange(len(values)) - np.repeat(first, counts)) % 2 == 1
    areas, broken = _sums_of_runs(values[is_set], counts // 2)
    start = values[first].copy()
    values[first] = 0  # the third run is no difference to the first
    others, broken_too = _sums_of_runs(values[~is_set], counts - counts // 2)
    wrong = (start < 0) | (areas + others + start != pixels)
    wrong[[*broken, *broken_too, *np.searchsorted(after, np.flatnonzero(lengths > _CHARACTERS), side="right")]] = True
    return np.where(wrong, -1, areas)


def _values(sixes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The signed number of each run of characters, int64; of too long ones anything."""
    values = (sixes[starts] & 31).astype(np.int64)
    for place in range(1, min(int(lengths.max()), _CHARACTERS)):
        more = np.flatnonzero(lengths > place)
        values[more] |= (sixes[starts[more] + place] & 31).astype(np.int64) << (5 * place)
    negative = np.flatnonzero(sixes[starts + lengths - 1] & 16)
    values[negative] -= np.int64(1) << (5 * np.minimum(lengths[negative], _CHARACTERS))
    return values


def _sums_of_runs(differences: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sum of each mask's runs of one kind, given as differences; and which masks have a negative one."""
    ends = np.cumsum(counts)
    total = np.concatenate(([0], np.cumsum(differences)))
    runs = total[1:] - np.repeat(total[ends - counts], counts)
    sums = np.concatenate(([0], np.cumsum(runs)))
    return sums[ends] - sums[ends - counts], np.searchsorted(ends, np.flatnonzero(runs < 0), side="right")
