"""Readers of PyTorch's two file formats: a zip of a pickle and storages, and the legacy one before PyTorch 1.6.

``torch.load(weights_only=True)`` is not used: it bounds neither time nor memory (see ``pickles``), and twice allowed a
file to execute code (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

from afictl.weights.bounded import BoundedReader, DamagedError, RefusedError, printable
from afictl.weights.pickles import read_pickle
from afictl.weights.stand_ins import StandIn
from afictl.weights.stored_tensors import TENSORS, Storage, storage_of

_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = _MAGIC.to_bytes(10, "little")
"""Bytes near the start of a file of the legacy format."""
_PROTOCOL = 1001
_MAX_DIRECTORY_BYTES = 8 * 2**20
_CHUNK_BYTES = 2**20
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, struct.error)

Fill = Callable[[str, memoryview], None]
"""Reads the storage of a key into memory."""


class _Directory(BoundedReader):
    """Refuses a directory of millions of names before ``zipfile`` creates an object for every name."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY_BYTES:
            raise RefusedError(f"has a directory of more than {_MAX_DIRECTORY_BYTES:,} bytes")
        return super().read(size)


def open_zip(raw: io.RawIOBase) -> tuple[object, Fill]:
    """Open a zip file of ``torch.save``.

    Returns:
        The content with ``StoredTensor`` for tensors, and a function that reads a storage into memory.

    Raises:
        RefusedError: compression, which PyTorch never uses, a program, paths outside the archive, or code.
        DamagedError: truncated, or a wrong checksum or size.
    """
    file = _Directory(raw)
    try:
        archive = zipfile.ZipFile(file)
        folder = _check_entries(archive, file.size)
    except _ZIP_ERRORS as error:
        raise DamagedError(f"its zip archive cannot be read: {printable(error)}") from None
    if f"{folder}byteorder" in archive.namelist() and _read_entry(archive, f"{folder}byteorder") != b"little":
        raise RefusedError("was written on a big-endian machine")
    pickled = _read_entry(archive, f"{folder}data.pkl")
    content = read_pickle(io.BytesIO(pickled), TENSORS, storage_of, copied_bytes=len(pickled))
    return content, lambda key, view: _fill_from_zip(archive, f"{folder}data/{key}", view)


def _check_entries(archive: zipfile.ZipFile, size: int) -> str:
    """Validate all entries before reading; returns the archive's single folder, with a slash."""
    entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") and entry.filename.count("/") == 1 for entry in entries):
        raise RefusedError("is a TorchScript program")
    if len({entry.filename for entry in entries}) < len(entries):
        raise RefusedError("its zip archive has two entries of one name")
    for entry in entries:
        name = entry.orig_filename
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise RefusedError(f"its zip archive has an entry {printable(name)}, a path outside it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise RefusedError("its zip archive is compressed or encrypted, which PyTorch never writes")
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError(f"its zip archive declares more bytes than the file's {size:,}")
    pickles = [e.filename for e in entries if e.filename.endswith("/data.pkl") and e.filename.count("/") == 1]
    if len(pickles) != 1:
        raise DamagedError("a zip archive without data.pkl, so not one of torch.save")
    return pickles[0].removesuffix("data.pkl")


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytearray:
    content = bytearray(archive.getinfo(name).file_size)
    _fill_from_zip(archive, name, memoryview(content))
    return content


def _fill_from_zip(archive: zipfile.ZipFile, name: str, view: memoryview) -> None:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise DamagedError(f"its {printable(name)} is missing") from None
    if entry.file_size != len(view):
        raise DamagedError(f"its {printable(name)} has {entry.file_size} bytes, the tensors need {len(view)}")
    try:
        with archive.open(entry) as member:
            for start in range(0, len(view), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                chunk[:] = member.read(len(chunk))
    except _ZIP_ERRORS as error:
        raise DamagedError(f"its {printable(name)} cannot be read: {printable(error)}") from None


def open_legacy(file: BoundedReader) -> tuple[object, Fill]:
    """``open_zip`` for the legacy format: magic number, version, system, content, storage keys, storages.

    Raises:
        RefusedError: another version, or code in a pickle.
        DamagedError: truncated, or its storages do not match its tensors.
    """
    storages: dict[str, Storage] = {}

    def register(identifier: object) -> Storage | StandIn:
        storage = storage_of(identifier)
        if isinstance(storage, StandIn):
            return storage
        if storages.setdefault(storage.key, storage) != storage:
            raise DamagedError(f"the storage {printable(storage.key)} is described twice")
        return storage

    def read() -> object:
        return read_pickle(file, TENSORS, register, copied_bytes=file.size)

    if read() != _MAGIC or read() != _PROTOCOL or not _is_little_endian(read()):
        raise RefusedError("is a legacy PyTorch file of an unknown version or of a big-endian machine")
    content = read()
    offsets = _storage_offsets(file, read(), storages)
    return content, lambda key, view: _fill_from_offset(file, offsets, key, view)


def _is_little_endian(system: object) -> bool:
    return isinstance(system, dict) and system.get("little_endian") is True


def _storage_offsets(file: BoundedReader, keys: object, storages: dict[str, Storage]) -> dict[str, int]:
    """Byte offsets of the storages, which follow in the order of ``keys``, every one after its count (int64)."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or storages.keys() - set(keys):
        raise DamagedError("its list of storages does not match its tensors")
    if len(keys) > len(storages):
        raise RefusedError("contains tensors of an unsupported type, such as quantized ones, in the legacy format")
    offsets = {}
    for key in keys:
        count = file.read(8)
        if len(count) < 8 or int.from_bytes(count, "little") != storages[key].count:
            raise DamagedError(f"the storage {printable(key)} is missing or of another size")
        offsets[key] = file.tell()
        if offsets[key] + storages[key].nbytes > file.size:
            raise DamagedError(f"it ends inside the storage {printable(key)}")
        file.seek(storages[key].nbytes, io.SEEK_CUR)
    return offsets


def _fill_from_offset(file: BoundedReader, offsets: dict[str, int], key: str, view: memoryview) -> None:
    file.seek(offsets[key])
    if file.readinto(view) < len(view):
        raise DamagedError(f"it ends inside the storage {printable(key)}")
