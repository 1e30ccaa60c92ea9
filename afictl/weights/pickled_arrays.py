"""NumPy arrays inside pickles, rebuilt from their bytes without NumPy's own rebuilding functions."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afictl.weights.bounded import DamagedError, RefusedError, shown
from afictl.weights.pickles import PLAIN, Call

_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"})
_MAX_DIMENSIONS = 32


class PickledDtype:
    """A type of numbers; its byte order arrives as state."""

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.lstrip("<>=|") if isinstance(code, str) else ""
        if text not in _NUMBERS:
            raise RefusedError(f"holds an array of {shown(code)}, which are no numbers")
        self.value = np.dtype(f"<{text}" if not str(code).startswith(">") else f">{text}")

    def set_state(self, state: Any) -> None:
        """Take the byte order; the rest describes records, which plain numbers are not."""
        if state[1] not in ("<", ">", "|", "="):
            raise DamagedError(f"unknown byte order {shown(state[1])}")
        self.value = self.value.newbyteorder(">" if state[1] == ">" else "<")


class PickledArray:
    """Shape, type and bytes of an array, checked against each other; nothing is copied before ``to_tensor``."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None
        self._dtype = np.dtype("<f4")
        self._fortran = False
        self._raw: bytes | str = b""

    def set_state(self, state: Any) -> None:
        """Take (version, shape, dtype, is_fortran, bytes); bytes are text in pickles of Python 2."""
        shape, dtype, fortran, raw = state[-4:]
        if not isinstance(dtype, PickledDtype) or not isinstance(raw, (bytes, str)):
            raise RefusedError("holds an array of objects")
        _check_shape(shape)
        if prod(shape) * dtype.value.itemsize != len(raw):
            raise DamagedError(f"an array of shape {list(shape)} and type {dtype.value} has {len(raw)} bytes")
        self._shape, self._dtype, self._fortran, self._raw = shape, dtype.value, bool(fortran), raw

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor to be."""
        return len(self._raw)

    def to_tensor(self) -> Tensor:
        """A tensor of its own memory, in the machine's byte order."""
        if self._shape is None:
            raise DamagedError("an array has no content")
        raw = self._raw if isinstance(self._raw, bytes) else self._raw.encode("latin-1")
        flat = np.frombuffer(raw, self._dtype)
        array = flat.reshape(self._shape, order="F" if self._fortran else "C")
        return torch.from_numpy(np.array(array, self._dtype.newbyteorder("="), order="C"))


def _check_shape(shape: Any) -> None:
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise DamagedError("an array's shape is no short tuple")
    if not all(type(size) is int and 0 <= size < 2**62 for size in shape):
        raise DamagedError("an array's shape holds what is no size")


def _reconstruct(kind: Any, *_: Any) -> PickledArray:
    if kind is not _NDARRAY:
        raise RefusedError("holds an array of an unknown class")
    return PickledArray()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:
    """How protocol 5 writes arrays."""
    array = PickledArray()
    array.set_state((shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: Any) -> Any:
    array = PickledArray()
    array.set_state(((), dtype, False, raw))
    return array.to_tensor().item()


_NDARRAY = object()

ARRAYS: dict[str, Any] = {**PLAIN, "numpy ndarray": _NDARRAY, "numpy dtype": Call(PickledDtype)}
"""The names admitted in a pickle of NumPy arrays, plain values and containers."""

for _core in ("numpy.core", "numpy._core"):  # the second since NumPy 2
    ARRAYS[f"{_core}.multiarray _reconstruct"] = Call(_reconstruct)
    ARRAYS[f"{_core}.multiarray scalar"] = Call(_scalar)
    ARRAYS[f"{_core}.numeric _frombuffer"] = Call(_from_buffer)
