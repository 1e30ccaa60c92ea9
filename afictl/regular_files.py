"""Reading of files that have to be regular ones, as a named pipe without a writer or a device has no end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from afictl.errors import UserError, format_error

_BLOCK_BYTES = 2**20
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_PIPES_OF_SHELL = (("dev",), ("proc",))
"""Folders of ``/dev/stdin`` and ``/dev/fd/N``, pipes whose writer is a running process."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read its bytes; a pipe that the shell made, such as ``/dev/stdin``, is one too.

    Raises:
        OSError: the file cannot be opened, or is a folder, a named pipe, a device or a socket; ``strerror`` says which.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if stat.S_ISFIFO(mode) and path.absolute().parts[1:2] in _PIPES_OF_SHELL:
            os.set_blocking(descriptor, True)
        elif not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'a special file')}, not a file", str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path, max_bytes: int, name: str = "") -> bytes:
    """Read a file of at most ``max_bytes``; of a larger one no more than that is read, and nothing if its size tells.

    Args:
        path: file as for ``open_regular``.
        max_bytes: the bound.
        name: name of the file with which error messages begin; empty: its path.

    Raises:
        UserError: the file cannot be opened or read, or is larger.
    """
    name = name or str(path)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size  # 0 for a pipe
            blocks = [file.read(size) if size <= max_bytes else b""]
            length = max(size, len(blocks[0]))
            while length <= max_bytes and (block := file.read(min(_BLOCK_BYTES, max_bytes + 1 - length))):
                blocks.append(block)
                length += len(block)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or format_error(error)}") from None
    if length > max_bytes:
        raise UserError(f"{name}: larger than {max_bytes:,} bytes")
    return b"".join(blocks)
