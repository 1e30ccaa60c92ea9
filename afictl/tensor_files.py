"""Safetensors files with a JSON description in their header."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from afictl.errors import UserError, one_line
from afictl.files import atomic_write, follow_link
from afictl.json_files import parse_json

_KEY = "afictl"
_MAX_FILE_BYTES = 8 * 2**30
_MAX_HEADER_BYTES = 4 * 2**20


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    description: Mapping[str, object],
    *,
    named_by_user: bool = False,
) -> None:
    """Write ``tensors`` and a JSON-serializable ``description`` atomically.

    Args:
        path: file to write.
        tensors: by name.
        description: stored in the header.
        named_by_user: the user gave this very path, not only its folder; a link there is followed and stays. Otherwise
            it is replaced, as in a run folder from elsewhere it could lead anywhere.

    Raises:
        OSError: with the name of ``path``; an earlier file is kept.
    """
    path = follow_link(Path(path)) if named_by_user else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    separate = _separate_on_cpu(tensors)
    with atomic_write(path) as draft:
        # As bytes: safetensors' own writer leaves a temporary file of the size of the weights where it is killed.
        draft.write_bytes(save(separate, metadata={_KEY: json.dumps(description)}))


def _separate_on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with a storage each, as safetensors requires; tied weights of a module have several names."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if address in storages else value
        storages.add(address)
    return separate


def check_file(path: str | Path) -> None:
    """Check that ``path`` is a regular file that is not empty and has at most 8 GiB, before it is opened.

    Raises:
        UserError: it is not such a file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder") from None
    except (OSError, ValueError) as error:  # a loop of links, no permission, an invalid name
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a file; give a file of weights")
    if status.st_size == 0:
        raise UserError(f"{path}: an empty file; copy or download it again")
    if status.st_size > _MAX_FILE_BYTES:
        raise UserError(f"{path}: {status.st_size / 2**30:.0f} GiB, more than 8; save the weights alone and give that")


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a safetensors file, on the CPU, and its description, which may be empty.

    The tensors are mapped: until they are copied, changes of the file in place change them.

    Raises:
        UserError: not a complete safetensors file.
    """
    path = Path(path)
    check_file(path)
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = ascii(one_line(error)[:160])[1:-1]
        raise UserError(f"{path}: not a readable safetensors file ({reason}); copy or make it again") from None
    return tensors, _parse_description(metadata.get(_KEY), path)


def _check_header(path: Path) -> None:
    """Refuse a header of more than about 40,000 tensors, before the library allocates memory for it."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER_BYTES:
        raise SafetensorError(f"header of {length:,} bytes")


def _parse_description(text: str | None, path: Path) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        description = parse_json(text, f"{path}: its description")
    except UserError as error:
        raise UserError(f"{error}; make the file again") from None
    if not isinstance(description, dict):
        raise UserError(f"{path}: its description is not a mapping; make the file again")
    return description
