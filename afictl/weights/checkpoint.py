"""Safe reading of checkpoint files: only tensors and plain values, never code."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afictl.control_characters import escape_control_characters
from afictl.errors import UserError
from afictl.run_folder import BEST, COMPARISON_SETTINGS, INTERPOLATOR, LAST, STATE, is_run, list_runs_below
from afictl.run_records import read_description
from afictl.tensor_files import check_file, read_tensors
from afictl.weights.bounded import BoundedReader, DamagedError, RefusedError
from afictl.weights.description import AVERAGED, DETECTOR
from afictl.weights.pickled_arrays import ARRAYS
from afictl.weights.pickles import read_pickle
from afictl.weights.state_dicts import Weights, find_state_dict
from afictl.weights.stored_classes import ClassNames, find_class_names
from afictl.weights.stored_tensors import DTYPES, StoredTensor
from afictl.weights.torch_files import LEGACY_START, Fill, open_legacy, open_zip

_RUN_CHECKPOINTS = (BEST, LAST)
_PRETRAINED = "model.safetensors"
"""File of weights in a folder of transformers' ``save_pretrained``."""
_MAX_NAME_LENGTH = 1024
_MAX_EMPTY_SIDE = 2**20  # a tensor without elements may claim any shape
_MAX_SHARED_FACTOR = 8
"""Limit of the total size of all tensors relative to the file: tied weights share storages, and expanded ones can claim
any size."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        path: the file that was read.
        tensors: name -> tensor, on the CPU.
        metadata: the description in a file of afictl; empty for other files.
        class_names: lists of class names beside the tensors of another project.
        notes: which of several state dicts ``tensors`` is.
        anchors: of an old file of detectron2, for its own model: those of cell (0, 0), (A, 4) xyxy in pixels a level.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    class_names: tuple[ClassNames, ...] = ()
    notes: tuple[str, ...] = ()
    anchors: tuple[Tensor, ...] = ()


def read_checkpoint(path: str | Path, averaged: bool | None = None) -> Checkpoint:
    """Read a checkpoint file of any supported kind, or the best (else last) detector of a run folder.

    The format is detected from the content: safetensors; both formats of ``torch.save``; pickles of NumPy arrays
    (``.pkl`` of the model zoos of detectron2 and Detectron). The state dict may be the top level or stand under
    ``model``, ``state_dict`` and similar keys. Objects beside it, such as arguments, are left alone. Nothing in the
    file is executed; time and memory are bounded by its size.

    Args:
        path: file or run folder.
        averaged: take the averaged (EMA) weights, or the trained ones; None: those that the library of the file loads.

    Raises:
        UserError: the file is missing, damaged, has no tensors, would run code in other readers, has non-finite
            weights, or claims more memory than its size.
    """
    checkpoint = _read(find_checkpoint(Path(path)), averaged)
    for name, tensor in checkpoint.tensors.items():
        _check(name, tensor, checkpoint.path)
    if checkpoint.metadata.get("format") == DETECTOR:
        classes = list(map(escape_control_characters, read_description(checkpoint.metadata, checkpoint.path).classes))
        return replace(checkpoint, metadata={**checkpoint.metadata, "classes": classes})
    return checkpoint


def find_checkpoint(path: Path) -> Path:
    """Path of a checkpoint: a file itself (not opened here), or the best, else the last detector of a run folder.

    In a folder of transformers' ``save_pretrained`` it is ``model.safetensors``.

    Raises:
        UserError: the folder contains no detector, or the file is the state of a training; the message names the
            content.
    """
    if not os.path.isdir(path):  # unlike Path.is_dir it never fails; check_file reports an invalid name
        if path.name == STATE and is_run(path.parent):
            raise UserError(f"{path}: is the state of a training, for --resume; give the run folder {path.parent}")
        return path
    for name in _RUN_CHECKPOINTS:
        if (path / name).is_file():
            return path / name
    if (path / _PRETRAINED).is_file():
        return path / _PRETRAINED
    _refuse_pretraining(path)
    _refuse_comparison(path)
    empty = (
        "is empty" if not any(path.iterdir()) else f"contains neither {_RUN_CHECKPOINTS[0]} nor {_RUN_CHECKPOINTS[1]}"
    )
    advice = list_runs_below(path) or "; give a run folder of 'afictl finetune'"
    raise UserError(f"{path}: the folder {empty}, so it is no finished run{advice}")


def _refuse_pretraining(folder: Path) -> None:
    """Refuse a run of ``pretrain``, which has an interpolator, and a detector only in its folder of stage 2."""
    if (folder / INTERPOLATOR).is_file() or (folder / "stage1").is_dir():
        stage2 = folder / "stage2"
        detector = f", or {stage2} as a detector" if any((stage2 / name).is_file() for name in _RUN_CHECKPOINTS) else ""
        file = f" (the file is {folder / INTERPOLATOR})" if (folder / INTERPOLATOR).is_file() else ""
        raise UserError(f"{folder}: is a run of pretrain; use --interpolator {folder}{file}{detector}")


def _refuse_comparison(folder: Path) -> None:
    """Refuse the folder of a comparison and name one of its runs."""
    runs = sorted(file.parent for file in folder.glob(f"*/seed*/{_RUN_CHECKPOINTS[1]}"))
    if (folder / COMPARISON_SETTINGS).is_file() or runs:
        run = runs[0] if runs else folder / "NAME" / "seed0"
        raise UserError(
            f"{folder}: is a comparison of several runs; name one of them, such as {run},"
            " or compare them with afictl compare --runs"
        )


def _read(file: Path, averaged: bool | None) -> Checkpoint:
    check_file(file)
    try:
        with open(file, "rb") as opened:
            head = opened.read(64)
        if _is_safetensors(head, file):
            return _read_safetensors(file, averaged)
        with io.FileIO(file) as raw:
            return _read_pickled(raw, head, file, averaged)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); copy it again") from None
    except DamagedError as error:
        raise UserError(f"{file}: not a complete checkpoint ({error}); copy or download it again") from None
    except RefusedError as error:
        raise UserError(
            f"{file}: refused: {error}; if you trust it, save its state_dict alone as safetensors and give that file"
        ) from None


def _read_safetensors(file: Path, averaged: bool | None) -> Checkpoint:
    tensors, metadata = read_tensors(file)
    is_averaged = metadata.get(AVERAGED) is True
    if averaged and not is_averaged:
        raise UserError(f"{file}: contains no averaged weights; leave --ema out")
    if averaged is False and is_averaged:
        raise UserError(f"{file}: contains averaged weights alone; leave --no-ema out")
    return Checkpoint(file, tensors, metadata, notes=("averaged weights",) * is_averaged)


def _is_safetensors(head: bytes, file: Path) -> bool:
    """Whether the file starts with a header length below 4 GiB and a brace."""
    return head[4:9] == b"\0\0\0\0{" or (file.suffix == ".safetensors" and not _is_zip(head) and not _is_pickle(head))


def _is_zip(head: bytes) -> bool:
    return head.startswith(b"PK\3\4")


def _is_pickle(head: bytes) -> bool:
    """Whether the file starts as a pickle of protocol 2 (Python 2 and PyTorch) to 5."""
    return head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")


def _read_pickled(raw: io.FileIO, head: bytes, file: Path, averaged: bool | None) -> Checkpoint:
    if _is_zip(head):
        content, fill = open_zip(raw)
    elif _is_pickle(head) and LEGACY_START in head[:32]:
        content, fill = open_legacy(BoundedReader(raw))
    elif _is_pickle(head):
        reader = BoundedReader(raw)
        content, fill = read_pickle(reader, ARRAYS, copied_bytes=reader.size), _no_storages
    else:
        raise UserError(
            f"{file}: not a checkpoint ({_describe_start(head)}); give a safetensors, PyTorch or pickle file"
        )
    described, notes = find_state_dict(content, file, averaged)
    tensors = fill_tensors(described, fill, file.stat().st_size)
    return Checkpoint(file, tensors, {}, find_class_names(content), notes)


def _no_storages(key: str, _: memoryview) -> None:
    raise DamagedError(f"its storage {key} is missing")


def _describe_start(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; run git lfs pull"
    if head.lstrip().startswith(b"<"):
        return "an HTML page, the result of a failed download"
    return "its first bytes match no supported format"


def fill_tensors(described: Weights, fill: Fill, size: int) -> dict[str, Tensor]:
    """Read the described tensors, each storage once, after a check of their total size.

    Args:
        described: by name.
        fill: reads a storage.
        size: bytes of the file.

    Raises:
        DamagedError: the storages are larger than the file.
        RefusedError: the tensors together are larger than several times the file.
    """
    storages = {value.storage for value in described.values() if isinstance(value, StoredTensor)}
    if sum(storage.nbytes for storage in storages) > size:
        raise DamagedError(f"its tensors need more storage than the file's {size:,} bytes")
    if sum(value.nbytes for value in set(described.values())) > _MAX_SHARED_FACTOR * size:
        raise RefusedError(f"claims tensors of more than {_MAX_SHARED_FACTOR} times the file's {size:,} bytes")
    memory = {storage: torch.empty(storage.nbytes, dtype=torch.uint8) for storage in storages}
    for storage, buffer in memory.items():
        fill(storage.key, buffer.numpy().data)
    tensors = {
        value: value.to_tensor(memory[value.storage]) if isinstance(value, StoredTensor) else value.to_tensor()
        for value in set(described.values())
    }
    return {name: tensors[value] for name, value in described.items()}


def _check(name: str, tensor: Tensor, file: Path) -> None:
    if len(name) > _MAX_NAME_LENGTH or not name.isprintable():
        raise UserError(f"{file}: the tensor name {name[:40]!a} is too long or not printable; rename it")
    if tensor.dtype not in DTYPES:
        raise UserError(f"{file}: {name} has dtype {tensor.dtype}, which is not supported; save it in another dtype")
    if tensor.numel() == 0 and max(tensor.shape) > _MAX_EMPTY_SIDE:
        raise UserError(f"{file}: {name} has the shape {list(tensor.shape)!s:.80} and no elements; it is damaged")
    if not _is_finite(tensor):
        raise UserError(f"{file}: {name} contains NaN or infinite weights; use an earlier checkpoint")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all elements are finite, from minimum and maximum, which need no copy and propagate NaN."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # PyTorch has no comparison of 8-bit floats
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())
