"""Safe reading of checkpoint files: tensors and plain values only, whatever the file holds."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from afictl.errors import UserError
from afictl.tensor_files import read_tensors

_IN_RUN = ("best.safetensors", "last.safetensors")
_NESTED = ("model", "state_dict")


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
    """Read a ``.safetensors``, ``.pt`` or ``.pth`` file, or the best (else last) detector of a run folder.

    Nothing in the file is executed: ``.pt`` and ``.pth`` go through PyTorch's restricted unpickler.

    Raises:
        UserError: missing, damaged, without tensors, or with more in it than tensors and plain values.
    """
    file = _file_of(Path(path))
    if file.suffix == ".safetensors":
        tensors, metadata = read_tensors(file)
        return Checkpoint(file, tensors, metadata)
    if file.suffix in (".pt", ".pth"):
        return Checkpoint(file, _state_dict(_unpickle(file), file), {})
    raise UserError(f"{file}: checkpoints end in .safetensors, .pt or .pth")


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for name in _IN_RUN:
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path}: the folder holds neither {_IN_RUN[0]} nor {_IN_RUN[1]}; is it a finished run?")
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    return path


def _unpickle(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{file}: refused, because it is damaged or holds code beside tensors; "
            "where you trust it, save its state_dict alone as safetensors and give that"
        ) from None
    except Exception as error:  # a damaged file can fail anywhere in torch's readers
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: not a readable PyTorch file ({reason:.120}); copy it again") from None


def _state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    """The tensors of a bare state dict, or of one stored under a usual name."""
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: holds a {type(content).__name__}, not a state_dict")
    for candidate in (content, *(content.get(key) for key in _NESTED)):
        if isinstance(candidate, Mapping):
            tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
    raise UserError(f"{file}: holds no tensors by name; expected a state_dict, bare or under {' or '.join(_NESTED)}")
