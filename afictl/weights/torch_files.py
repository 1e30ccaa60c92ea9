"""PyTorch's two file formats: a zip of one pickle and its storages, and before PyTorch 1.6 pickles, then storages.

``torch.load(weights_only=True)`` is not used: it bounds neither time nor memory (see ``pickles``), and twice had
holes through which a file ran code (CVE-2025-32434, CVE-2026-24747).
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from afictl.weights.bounded import BoundedReader, DamagedError, RefusedError, shown
from afictl.weights.pickles import read_pickle
from afictl.weights.stored_tensors import TENSORS, Storage, storage_of

_MAGIC = 0x1950A86A20F9469CFC6C
OLD_START = _MAGIC.to_bytes(10, "little")
"""Among the first bytes of a file of the older format."""
_PROTOCOL = 1001
_MAX_DIRECTORY = 8 * 2**20
_CHUNK = 2**20
_BROKEN = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OSError, struct.error)

Fill = Callable[[str, memoryview], None]


class _Directory(BoundedReader):
    """Refuses a directory of millions of names before ``zipfile`` makes an object of each."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_DIRECTORY:
            raise RefusedError(f"lists more than {_MAX_DIRECTORY:,} bytes of names")
        return super().read(size)


def open_zip(raw: io.RawIOBase) -> tuple[Any, Fill]:
    """The content of a zip of ``torch.save``, its tensors as ``StoredTensor``, and what reads a storage.

    Raises:
        RefusedError: compressed (PyTorch never does), a program, names that leave the archive, or code in the pickle.
        DamagedError: it breaks off, or a checksum or a size is wrong.
    """
    file = _Directory(raw)
    try:
        archive = zipfile.ZipFile(file)
        folder = _check_entries(archive, file.size)
    except _BROKEN as error:
        raise DamagedError(f"its zip archive cannot be read: {shown(error)}") from None
    if f"{folder}byteorder" in archive.namelist() and _read_entry(archive, f"{folder}byteorder") != b"little":
        raise RefusedError("was written on a big-endian machine")
    pickled = _read_entry(archive, f"{folder}data.pkl")
    content = read_pickle(io.BytesIO(pickled), TENSORS, storage_of, copied_bytes=len(pickled))
    return content, lambda key, view: _fill_from_zip(archive, f"{folder}data/{key}", view)


def _check_entries(archive: zipfile.ZipFile, size: int) -> str:
    """Check every entry before any is read; the archive's one folder, with a slash."""
    entries = archive.infolist()
    if len({entry.filename for entry in entries}) < len(entries):
        raise RefusedError("its zip archive has two entries of one name")
    for entry in entries:
        name = entry.orig_filename
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise RefusedError(f"its zip archive has an entry {shown(name)}, a path that leaves it")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise RefusedError("its zip archive is compressed or encrypted, as PyTorch never writes it")
    if sum(entry.file_size for entry in entries) > size:
        raise RefusedError(f"its zip archive declares more bytes than the file's {size:,}")
    pickles = [e.filename for e in entries if e.filename.endswith("/data.pkl") and e.filename.count("/") == 1]
    if len(pickles) != 1:
        raise DamagedError("a zip archive, but not one of torch.save: it lacks data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in archive.namelist():
        raise RefusedError("is a TorchScript program")
    return folder


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytearray:
    content = bytearray(archive.getinfo(name).file_size)
    _fill_from_zip(archive, name, memoryview(content))
    return content


def _fill_from_zip(archive: zipfile.ZipFile, name: str, view: memoryview) -> None:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise DamagedError(f"its {shown(name)} is missing") from None
    if entry.file_size != len(view):
        raise DamagedError(f"its {shown(name)} has {entry.file_size} bytes where the tensors ask for {len(view)}")
    try:
        with archive.open(entry) as stored:
            for start in range(0, len(view), _CHUNK):
                part = view[start : start + _CHUNK]
                part[:] = stored.read(len(part))
    except _BROKEN as error:
        raise DamagedError(f"its {shown(name)} cannot be read: {shown(error)}") from None


def open_old(file: BoundedReader) -> tuple[Any, Fill]:
    """``open_zip`` for the older format: magic number, version, system, content, names of storages, storages.

    Raises:
        RefusedError: another version, or code in a pickle.
        DamagedError: it breaks off, or its storages do not fit its tensors.
    """
    storages: dict[str, Storage] = {}

    def remember(identifier: Any) -> Storage:
        storage = storage_of(identifier)
        if storages.setdefault(storage.key, storage) != storage:
            raise DamagedError(f"the storage {shown(storage.key)} is described twice")
        return storage

    def read() -> Any:
        return read_pickle(file, TENSORS, remember, copied_bytes=file.size)

    if read() != _MAGIC or read() != _PROTOCOL or not _is_little(read()):
        raise RefusedError("is an older PyTorch file of an unknown version or of a big-endian machine")
    content = read()
    places = _places(file, read(), storages)
    return content, lambda key, view: _fill_from_place(file, places, key, view)


def _is_little(system: Any) -> bool:
    return isinstance(system, dict) and system.get("little_endian") is True


def _places(file: BoundedReader, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Offset of each storage's bytes; they follow in the order of ``keys``, each after its count (int64)."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise DamagedError("its list of storages does not fit its tensors")
    places = {}
    for key in keys:
        count = file.read(8)
        if len(count) < 8 or int.from_bytes(count, "little") != storages[key].count:
            raise DamagedError(f"the storage {shown(key)} is missing or of another size")
        places[key] = file.tell()
        if places[key] + storages[key].nbytes > file.size:
            raise DamagedError(f"it breaks off inside the storage {shown(key)}")
        file.seek(storages[key].nbytes, io.SEEK_CUR)
    return places


def _fill_from_place(file: BoundedReader, places: dict[str, int], key: str, view: memoryview) -> None:
    file.seek(places[key])
    if file.readinto(view) < len(view):
        raise DamagedError(f"it breaks off inside the storage {shown(key)}")
