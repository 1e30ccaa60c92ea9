"""NumPy arrays in pickles, rebuilt from their bytes without NumPy's reconstruction functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from afictl.weights.bounded import DamagedError, printable
from afictl.weights.pickle_values import PLAIN, Call
from afictl.weights.stand_ins import StandIn

_NUMBER_CODES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"})
_BYTE_ORDERS = "<>=|"
_MAX_DIMENSIONS = 32


class PickledDtype:
    """A number dtype; its byte order is set by ``set_state``."""

    def __init__(self, code: str) -> None:
        order = ">" if code.startswith(">") else "<"
        self.value = np.dtype(f"{order}{code.lstrip(_BYTE_ORDERS)}")

    def set_state(self, state: Sequence[object]) -> None:
        """Set the byte order; the other items describe record types, which are not supported."""
        if state[1] not in ("<", ">", "|", "="):
            raise DamagedError(f"unknown byte order {printable(state[1])}")
        self.value = self.value.newbyteorder(">" if state[1] == ">" else "<")


class PickledArray:
    """Shape, dtype and bytes of an array, validated together; nothing is copied before ``to_tensor``."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None
        self._dtype = np.dtype("<f4")
        self._fortran = False
        self._raw: bytes | str = b""
        self.other_type = ""
        """Description of the elements if they are no numbers."""

    def set_state(self, state: Sequence[object]) -> None:
        """Set (version, shape, dtype, is_fortran, bytes); bytes are text in pickles of Python 2."""
        shape, dtype, fortran, raw = state[-4:]
        if isinstance(dtype, StandIn):
            self.other_type = dtype.name
            return
        if not isinstance(dtype, PickledDtype) or not isinstance(raw, (bytes, str)):
            raise DamagedError("an array without the bytes of its numbers")
        shape = _checked_shape(shape)
        if prod(shape) * dtype.value.itemsize != len(raw):
            raise DamagedError(f"an array of shape {list(shape)} and type {dtype.value} has {len(raw)} bytes")
        self._shape, self._dtype, self._fortran, self._raw = shape, dtype.value, bool(fortran), raw

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return len(self._raw)

    def to_tensor(self) -> Tensor:
        """A copy as a tensor in the machine's byte order."""
        if self._shape is None:
            raise DamagedError("an array without content")
        raw = self._raw if isinstance(self._raw, bytes) else self._raw.encode("latin-1")
        flat = np.frombuffer(raw, self._dtype)
        array = flat.reshape(self._shape, order="F" if self._fortran else "C")
        return torch.from_numpy(np.array(array, self._dtype.newbyteorder("="), order="C"))


def _checked_shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise DamagedError("the shape of an array is not a tuple of at most 32 sizes")
    if not all(type(size) is int and 0 <= size < 2**62 for size in shape):
        raise DamagedError("the shape of an array contains an invalid size")
    return shape


def _dtype(code: object, *_: object) -> PickledDtype | StandIn:
    if isinstance(code, str) and code.lstrip(_BYTE_ORDERS) in _NUMBER_CODES:
        return PickledDtype(code)
    return StandIn(f"numpy.ndarray of {printable(code)}, which is no number type")


def _reconstruct(kind: object, *_: object) -> PickledArray | StandIn:
    return PickledArray() if kind is _NDARRAY else StandIn(f"{getattr(kind, 'name', 'numpy.ndarray')} (array)")


def _from_buffer(raw: object, dtype: object, shape: object, order: object) -> PickledArray:
    """The form of arrays in pickle protocol 5."""
    array = PickledArray()
    array.set_state((shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: object, raw: object) -> float | complex | StandIn:
    if isinstance(dtype, StandIn):
        return StandIn(dtype.name)
    array = PickledArray()
    array.set_state(((), dtype, False, raw))
    return array.to_tensor().item()


_NDARRAY = object()

ARRAYS: dict[str, object] = {**PLAIN, "numpy ndarray": _NDARRAY, "numpy dtype": Call(_dtype)}
"""Globals that are allowed in a pickle of NumPy arrays, plain values and containers."""

for _core in ("numpy.core", "numpy._core"):  # the latter since NumPy 2
    ARRAYS[f"{_core}.multiarray _reconstruct"] = Call(_reconstruct)
    ARRAYS[f"{_core}.multiarray scalar"] = Call(_scalar)
    ARRAYS[f"{_core}.numeric _frombuffer"] = Call(_from_buffer)
