"""Safe reading of checkpoint files: tensors and plain values only, whatever the file holds."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afictl.errors import UserError
from afictl.run_folder import BEST, COMPARISON_SETTINGS, INTERPOLATOR, LAST
from afictl.tensor_files import check_file, read_tensors
from afictl.weights.bounded import BoundedReader, DamagedError, RefusedError
from afictl.weights.pickled_arrays import ARRAYS, PickledArray
from afictl.weights.pickles import read_pickle
from afictl.weights.stored_tensors import DTYPES, StoredTensor
from afictl.weights.torch_files import OLD_START, Fill, open_old, open_zip

_IN_RUN = (BEST, LAST)
_NESTED = ("model", "state_dict", "blobs")
_MOMENTUM = "_momentum"  # optimizer's state among the blobs of Caffe2
_NAME_LENGTH = 1024
_LONGEST_EMPTY = 2**20  # a tensor without numbers may say any size
_MOST_SHARED = 8
"""Tensors that share storages may add up to this many times the file: tied weights do, expanded ones can pretend any
size."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file that was read.
        tensors: name -> tensor, on the CPU.
        metadata: the description inside one of our own files, else empty.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file of any supported kind, or the best (else last) detector of a run folder.

    The content tells the kind, whatever the name: safetensors; files of ``torch.save``, new and old; pickles of NumPy
    arrays (``.pkl`` of detectron2's and Detectron's model zoos). The state dict may be bare or lie under ``model``,
    ``state_dict`` or ``blobs``. Nothing in the file is executed, and time and memory are bounded by its size.

    Raises:
        UserError: missing, damaged, without tensors, with more in it than tensors and plain values, with weights
            that are not finite, or of a size that would cost more than the file's own.
    """
    file = find_checkpoint(Path(path))
    tensors, metadata = _read(file)
    for name, tensor in tensors.items():
        _check(name, tensor, file)
    return Checkpoint(file, tensors, metadata)


def find_checkpoint(path: Path) -> Path:
    """``path`` itself, or of a run folder the best detector, else the last; whether a file is one is not looked at.

    Raises:
        UserError: a folder without a detector; says what it holds instead.
    """
    if not os.path.isdir(path):  # unlike Path's, never fails: a name that can be none is told by check_file
        return path
    for name in _IN_RUN:
        if (path / name).is_file():
            return path / name
    _refuse_pretraining(path)
    _refuse_grid(path)
    empty = "is empty" if not any(path.iterdir()) else f"holds neither {_IN_RUN[0]} nor {_IN_RUN[1]}"
    raise UserError(f"{path}: the folder {empty}, so it is no finished run; give a run folder of 'afictl finetune'")


def _refuse_pretraining(folder: Path) -> None:
    """Say what a run of ``pretrain`` is for: it holds an interpolator, and in a folder of stage 2 a detector."""
    if (folder / INTERPOLATOR).is_file() or (folder / "stage1").is_dir():
        stage2 = folder / "stage2"
        detector = f", or {stage2} as a detector" if any((stage2 / name).is_file() for name in _IN_RUN) else ""
        file = f" (the file is {folder / INTERPOLATOR})" if (folder / INTERPOLATOR).is_file() else ""
        raise UserError(f"{folder}: is a run of pretrain; use --interpolator {folder}{file}{detector}")


def _refuse_grid(folder: Path) -> None:
    """Say which runs the folder of a comparison holds."""
    runs = sorted(file.parent for file in folder.glob(f"*/seed*/{_IN_RUN[1]}"))
    if (folder / COMPARISON_SETTINGS).is_file() or runs:
        run = runs[0] if runs else folder / "NAME" / "seed0"
        raise UserError(
            f"{folder}: is a comparison of several runs; name one of them, such as {run},"
            " or compare them with afictl compare --runs"
        )


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_file(file)
    try:
        with open(file, "rb") as start:
            head = start.read(64)
        if _is_safetensors(head, file):
            return read_tensors(file)
        with io.FileIO(file) as raw:
            return _read_pickled(raw, head, file), {}
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    except DamagedError as error:
        raise UserError(f"{file}: not a whole checkpoint ({error}); copy or download it again") from None
    except RefusedError as error:
        raise UserError(
            f"{file}: refused: {error}; where you trust it, save its state_dict alone as safetensors and give that"
        ) from None


def _is_safetensors(head: bytes, file: Path) -> bool:
    """Whether it starts with a header's length, below 4 GiB, and a brace."""
    return head[4:9] == b"\0\0\0\0{" or (file.suffix == ".safetensors" and not _is_zip(head) and not _is_pickle(head))


def _is_zip(head: bytes) -> bool:
    return head.startswith(b"PK\3\4")


def _is_pickle(head: bytes) -> bool:
    """Whether it starts as a pickle of protocol 2 (Python 2 and PyTorch) to 5."""
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def _read_pickled(raw: io.FileIO, head: bytes, file: Path) -> dict[str, Tensor]:
    if _is_zip(head):
        content, fill = open_zip(raw)
    elif _is_pickle(head) and OLD_START in head[:32]:
        content, fill = open_old(BoundedReader(raw))
    elif _is_pickle(head):
        reader = BoundedReader(raw)
        content, fill = read_pickle(reader, ARRAYS, copied_bytes=reader.size), _no_storages
    else:
        raise UserError(f"{file}: not a checkpoint ({_guess(head)}); give a safetensors, PyTorch or pickle file")
    return _to_tensors(_state_dict(content, file), fill, file.stat().st_size)


def _no_storages(key: str, _: memoryview) -> None:
    raise DamagedError(f"its storage {key} is missing")


def _guess(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run git lfs pull"
    if head.lstrip().startswith(b"<"):
        return "a web page, as a failed download leaves it"
    return "it starts like none"


def _state_dict(content: Any, file: Path) -> dict[str, StoredTensor | PickledArray]:
    """The tensors stored under a usual name, or of a bare state dict."""
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: holds a {type(content).__name__}, not a state_dict")
    for candidate in (*(content.get(key) for key in _NESTED), content):
        if isinstance(candidate, Mapping):
            tensors = {name: value for name, value in candidate.items() if _is_weight(name, value)}
            if tensors:
                return tensors
    raise UserError(f"{file}: holds no tensors by name; expected a state_dict, bare or under {' or '.join(_NESTED)}")


def _is_weight(name: Any, value: Any) -> bool:
    tensor = isinstance(value, (StoredTensor, PickledArray))
    return tensor and isinstance(name, str) and not name.endswith(_MOMENTUM)


def _to_tensors(described: dict[str, StoredTensor | PickledArray], fill: Fill, size: int) -> dict[str, Tensor]:
    """Read the tensors, each storage once, after a look at what they cost in all."""
    storages = {value.storage for value in described.values() if isinstance(value, StoredTensor)}
    if sum(storage.nbytes for storage in storages) > size:
        raise DamagedError(f"its tensors ask for more storage than the file's {size:,} bytes")
    if sum(value.nbytes for value in set(described.values())) > _MOST_SHARED * size:
        raise RefusedError(f"claims tensors of more than {_MOST_SHARED} times the file's {size:,} bytes")
    memory = {storage: torch.empty(storage.nbytes, dtype=torch.uint8) for storage in storages}
    for storage, part in memory.items():
        fill(storage.key, part.numpy().data)
    tensors = {
        value: value.to_tensor(memory[value.storage]) if isinstance(value, StoredTensor) else value.to_tensor()
        for value in set(described.values())
    }
    return {name: tensors[value] for name, value in described.items()}


def _check(name: str, tensor: Tensor, file: Path) -> None:
    if len(name) > _NAME_LENGTH or not name.isprintable():
        raise UserError(f"{file}: the tensor name {name[:40]!a} is too long or not printable; rename it")
    if tensor.dtype not in DTYPES:
        raise UserError(f"{file}: {name} holds {tensor.dtype}; save it as one of PyTorch's usual types of numbers")
    if tensor.numel() == 0 and max(tensor.shape) > _LONGEST_EMPTY:
        raise UserError(f"{file}: {name} has the shape {list(tensor.shape)!s:.80} and no numbers; it is damaged")
    if not _is_finite(tensor):
        raise UserError(f"{file}: {name} holds NaN or infinite weights; take an earlier checkpoint of its training")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; the extremes tell it without a copy, for NaN spreads into both."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # PyTorch compares no numbers of 8 bits
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
