"""Saved state of a training, a file of ``torch.save`` with tensors in nested containers of plain values."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from afictl.errors import UserError, describe_type
from afictl.tensor_files import check_file
from afictl.weights.bounded import DamagedError, RefusedError
from afictl.weights.checkpoint import fill_tensors
from afictl.weights.pickles import MAX_STEPS
from afictl.weights.stored_tensors import StoredTensor
from afictl.weights.torch_files import open_zip

_MAX_DEPTH = 16
_PLAIN_TYPES = (str, int, float, bool, type(None))


def read_saved_state(file: Path) -> dict[object, object]:
    """Read a saved state, on the CPU; nothing in the file is executed, and time and memory are bounded by its size.

    Returns:
        The containers of the file as ``dict``, ``list`` and ``tuple``, with tensors and plain values.

    Raises:
        UserError: the file is missing or damaged, or contains something else.
    """
    check_file(file)
    try:
        with io.FileIO(file) as raw:
            content, fill = open_zip(raw)
            described = _Containers()
            described.measure(content)
            tensors = fill_tensors({str(k): value for k, value in described.tensors.items()}, fill, file.stat().st_size)
            state = _Replacement({int(k): value for k, value in tensors.items()}).of(content)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    except (DamagedError, RefusedError) as error:
        raise UserError(f"{file}: not a saved state of a training ({error}); copy it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{file}: contains {describe_type(state)}, not the state of a training; copy it again")
    return state


class _Containers:
    """Tensors in nested containers, and the number of their values with every repeated container written out."""

    def __init__(self) -> None:
        self.tensors: dict[int, StoredTensor] = {}
        """By ``id``."""
        self._sizes: dict[int, int | None] = {}
        """By ``id`` of the container; None while it is measured."""

    def measure(self, value: object, depth: int = 0) -> int:
        """Number of values in ``value``.

        Raises:
            RefusedError: it contains itself, is nested too deep, has too many values, or other ones than tensors and
                plain values.
        """
        if isinstance(value, StoredTensor):
            self.tensors[id(value)] = value
        if isinstance(value, (StoredTensor, *_PLAIN_TYPES)):
            return 1
        if not isinstance(value, (dict, list, tuple)):
            raise RefusedError(f"it contains {describe_type(value)}")
        key = id(value)
        if depth > _MAX_DEPTH or (key in self._sizes and self._sizes[key] is None):
            raise RefusedError("its containers are nested too deep")
        size = self._sizes.get(key)
        if size is None:
            self._sizes[key] = None
            size = 1 + sum(self.measure(item, depth + 1) for item in _items(value))
            self._sizes[key] = size
        if size > MAX_STEPS:
            raise RefusedError(f"its containers stand for more than {MAX_STEPS:,} values")
        return size


class _Replacement:
    """Copies of containers with ``tensors``, by the ``id`` of their descriptions; equal containers stay one."""

    def __init__(self, tensors: dict[int, Tensor]) -> None:
        self._values: dict[int, object] = dict(tensors)

    def of(self, value: object) -> object:
        """The copy of a container or tensor; a plain value itself."""
        if isinstance(value, _PLAIN_TYPES):
            return value
        key = id(value)
        if key not in self._values:
            if isinstance(value, dict):
                self._values[key] = {name: self.of(item) for name, item in value.items()}
            elif isinstance(value, list | tuple):
                self._values[key] = type(value)(self.of(item) for item in value)
        return self._values[key]


def _items(value: dict[object, object] | list[object] | tuple[object, ...]) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value
