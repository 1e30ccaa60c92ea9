"""Tensors as described in a PyTorch file: views of storages that are stored elsewhere in the file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from afictl.weights.bounded import DamagedError, RefusedError
from afictl.weights.pickle_values import Call
from afictl.weights.pickled_arrays import ARRAYS
from afictl.weights.stand_ins import StandIn

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
DTYPES = {
    *_STORAGES.values(),
    *(torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
}
"""Supported dtypes, for files of all formats."""
_MAX_DIMENSIONS = 32
_MAX_ARGUMENTS = 8
_MAX_KEY_LENGTH = 64


@dataclass(frozen=True)
class StorageType:
    """Element dtype of a storage; untyped storages count bytes."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """``count`` elements of ``dtype``, stored in the file under ``key``."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        """Size in the file in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A view of a storage; offset and strides count elements of ``dtype``."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def to_tensor(self, memory: Tensor) -> Tensor:
        """The view of ``memory``, the bytes of the storage, (B,) uint8."""
        count = memory.numel() // self.dtype.itemsize
        flat = memory[: count * self.dtype.itemsize].view(self.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset)


def storage_of(identifier: object) -> Storage | StandIn:
    """The storage of a persistent identifier of PyTorch; a stand-in for the class of a module, and for other types."""
    if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
        return identifier[1] if isinstance(identifier[1], StandIn) else StandIn("torch.nn.Module")
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise RefusedError("has a persistent identifier that is no storage")
    kind, key, _, count = identifier[1:5]
    if identifier[5:] not in ((), (None,)):
        raise RefusedError("contains views of storages, which PyTorch before 0.4 wrote")
    if isinstance(kind, StandIn):
        return StandIn(kind.name)
    if not isinstance(kind, StorageType) or type(count) is not int or count < 0:
        raise DamagedError("an invalid description of a storage")
    if not isinstance(key, str) or len(key) > _MAX_KEY_LENGTH:
        raise DamagedError("a storage without a key of at most 64 characters")
    return Storage(key, kind.dtype, count)


def _tensor(
    storage: object, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> StoredTensor | StandIn:
    """PyTorch's tensor constructors; ``rest`` is requires_grad, hooks, and the additions of versions 2 and 3."""
    if isinstance(storage, StandIn):
        return storage
    if not isinstance(storage, Storage):
        raise DamagedError("a tensor without a storage")
    if any(isinstance(value, dict) and (len(value) > 2 or any(value.values())) for value in rest):
        raise RefusedError("contains tensors with hooks or lazy conjugation")
    dtype = next((value for value in rest if isinstance(value, torch.dtype)), storage.dtype)
    tensor = StoredTensor(storage, dtype, offset, shape, stride)
    _check_view(tensor)
    return tensor


def _check_view(tensor: StoredTensor) -> None:
    shape, stride, offset = tensor.shape, tensor.stride, tensor.offset
    if (
        not isinstance(shape, tuple)
        or not isinstance(stride, tuple)
        or not len(shape) == len(stride) <= _MAX_DIMENSIONS
    ):
        raise DamagedError("a tensor's shape and strides are not tuples of one length of at most 32")
    if not all(type(number) is int and 0 <= number < 2**62 for number in (*shape, *stride, offset)):
        raise DamagedError("a tensor's shape, strides or offset contain an invalid size")
    last = sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if prod(shape) else -1
    available = tensor.storage.nbytes // tensor.dtype.itemsize
    if offset + last >= available and last >= 0:
        raise DamagedError(f"a tensor of shape {list(shape)} needs more than the {available} elements of its storage")


def _parameter(data: object, *_: object) -> object:
    return data


def _with_attributes(rebuild: object, _: object, arguments: object, *__: object) -> StoredTensor | StandIn:
    """A tensor with Python attributes, which are ignored."""
    if isinstance(rebuild, StandIn):
        return StandIn(rebuild.name)
    if not isinstance(rebuild, Call) or rebuild.function is not _tensor:
        raise RefusedError("contains a tensor of an unknown class")
    if not isinstance(arguments, tuple) or len(arguments) > _MAX_ARGUMENTS:
        raise DamagedError("an invalid description of a tensor")
    return _tensor(*arguments)


def _size(sizes: Iterable[object] = ()) -> tuple[object, ...]:
    return tuple(sizes)


def _device(*_: object) -> None:
    """Weights are read to the CPU; their device is ignored."""


TENSORS: dict[str, object] = {
    **ARRAYS,
    **{
        f"{module} {name}": StorageType(dtype)
        for name, dtype in _STORAGES.items()
        for module in ("torch", "torch.cuda")
    },
    **{str(dtype).replace(".", " "): dtype for dtype in DTYPES},
    "torch.storage UntypedStorage": StorageType(torch.uint8),
    "torch._utils _rebuild_tensor": Call(_tensor),
    "torch._utils _rebuild_tensor_v2": Call(_tensor),
    "torch._utils _rebuild_tensor_v3": Call(_tensor),
    "torch._utils _rebuild_parameter": Call(_parameter),
    "torch._utils _rebuild_parameter_with_state": Call(_parameter),
    "torch._tensor _rebuild_from_type_v2": Call(_with_attributes),
    "torch Tensor": None,
    "torch.nn.parameter Parameter": None,
    "torch Size": Call(_size),
    "torch device": Call(_device),
}
"""Globals that are allowed in a pickle of PyTorch: dense tensors, parameters, and those of ``ARRAYS``."""
