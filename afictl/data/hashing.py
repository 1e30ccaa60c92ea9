"""Parallel SHA-256 of files and tensors of hundreds of megabytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
from torch import Tensor

_BLOCK_BYTES = 8 * 2**20
_THREADS = min(4, os.cpu_count() or 1)


def file_digest(file: Path) -> str:
    """The digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """

    def read_block(start: int) -> bytes:
        with open(file, "rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(_BLOCK_BYTES)

    return _digest(file.stat().st_size, read_block)


def tensor_digest(tensor: Tensor) -> str:
    """The digest of the numbers of a contiguous tensor, whatever its shape."""
    values = tensor.numpy().reshape(-1).view(np.uint8)
    return _digest(len(values), lambda start: values[start : start + _BLOCK_BYTES].data)


def _digest(size: int, read_block: Callable[[int], bytes | memoryview]) -> str:
    """SHA-256 of the SHA-256 of each block, which threads compute in parallel."""

    def digest_block(start: int) -> bytes:
        return sha256(read_block(start)).digest()

    starts = range(0, size, _BLOCK_BYTES)
    if len(starts) < 2:
        return sha256(b"".join(map(digest_block, starts))).hexdigest()
    with ThreadPoolExecutor(_THREADS) as pool:
        return sha256(b"".join(pool.map(digest_block, starts))).hexdigest()
