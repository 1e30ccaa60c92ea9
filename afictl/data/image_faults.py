"""Reasons why a file cannot be read as an image, told from its status and first bytes, without decoding it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

MISSING = "does not exist"
HEIC_SUFFIXES = (".heic", ".heif")
"""Suffixes of images that are not supported, and told by name where files are skipped."""

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_HEAD_BYTES = 512
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""Brands of an ``ftyp`` box that belong to HEIF images of HEVC, by ISO/IEC 23008-12."""


def status_fault(status: os.stat_result) -> str:
    """Why a file of this status cannot be an image; empty for a regular file with content."""
    if stat.S_ISREG(status.st_mode):
        return "" if status.st_size else "is an empty file"
    kind = next((kind for matches, kind in _KINDS if matches(status.st_mode)), "no regular file")
    return f"is {kind}, not an image file"


def file_fault(path: Path) -> str:
    """Why ``path`` cannot be an image file, by its status; empty for a regular file with content.

    Nothing is opened: opening a named pipe would block, and opening a device may have effects.
    """
    try:
        return status_fault(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return f"is a link to {os.readlink(path)}, which {MISSING}" if path.is_symlink() else MISSING
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:  # a null character in the name
        return f"cannot be read: {error}"


def content_fault(path: Path) -> str:
    """What the content of a regular file shows it to be, where that is a known kind of file without pixels.

    Returns:
        A predicate such as ``is a Git LFS pointer ...``; empty for any other content.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if head.startswith(_GIT_LFS):
        return "is a Git LFS pointer instead of the image: run 'git lfs pull' in its repository"
    if head[:1] in (b"/", b".") and b"/annex/objects/" in head:
        return "is a git-annex pointer instead of the image: run 'git annex get' in its repository"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "is a HEIC file, which is not supported: convert it to JPEG or PNG"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page instead of an image: download it again"
    return "has only zero bytes: copy or download it again" if head and not head.strip(b"\0") else ""
