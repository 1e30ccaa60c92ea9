"""Reading of JSON from files, the same way for every kind of file.

``read_json`` is the reader of a whole file, and ``parse_json`` of text that is already in memory, such as a line of
JSON Lines. ``read_json_text`` and ``iter_json_text`` give UTF-8 text for a typed decoder of msgspec. All accept UTF-8,
UTF-16 and UTF-32, with or without a byte order mark, and ``NaN``, ``Infinity`` and ``-Infinity`` as Python writes them.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afictl.errors import UserError, one_line
from afictl.regular_files import open_regular, read_bounded

_MAX_BYTES = 2**35
"""Several times the largest annotation files; a file of holes or a pipe that never ends is refused and not read on."""
_BLOCK_BYTES = 2**20
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_COMMENT = re.compile(r"//|/\*|#")
_OTHER_FORMATS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'",
    b"\x1f\x8b": "is compressed with gzip; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"<": "is XML or HTML, not JSON",
}
"""First bytes of files that are often given instead of JSON."""


def read_json(path: Path, role: str = "", *, unique_keys: bool = True) -> Any:
    """Parse a JSON file.

    Args:
        path: the file.
        role: kind of file, or flag that names it, for error messages; empty: the path alone is named.
        unique_keys: refuse mappings in which a key occurs twice; otherwise its last value counts.

    Raises:
        UserError: the file cannot be read, or see ``parse_json``.
    """
    return parse_json(read_json_text(path, role), _name(path, role), unique_keys=unique_keys)


def parse_json(text: str | bytes, name: str, *, unique_keys: bool = True) -> Any:
    """Parse JSON.

    Args:
        text: JSON as text, or its bytes in any of the encodings.
        name: name of the source, with which error messages begin.
        unique_keys: refuse mappings in which a key occurs twice; otherwise its last value counts.

    Raises:
        UserError: not JSON, nested too deep, a number of too many digits, text that is not Unicode, or a repeated key.
    """
    text = _decode(text, name) if isinstance(text, bytes) else text.removeprefix("\ufeff")
    try:
        value = json.loads(text, object_pairs_hook=_unique_mapping if unique_keys else None)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except RecursionError:
        raise UserError(f"{name}: not readable as JSON: nested too deep") from None
    except _RepeatedKeyError as error:
        raise UserError(f"{name}: key '{error!s:.60}' occurs twice in one mapping; remove one") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: {_fault(text, error)}") from None
    except UnicodeEncodeError:
        raise UserError(f"{name}: a text is not valid Unicode: it has half of a surrogate pair") from None
    except ValueError:  # int() of more than 4,300 digits
        raise UserError(f"{name}: not readable as JSON: a whole number of more digits than Python converts") from None
    return value


def read_json_text(path: Path, role: str = "") -> bytes:
    """JSON text of a file in UTF-8 without a byte order mark, checked to be Unicode but not yet to be JSON.

    Raises:
        UserError: the file cannot be read, is larger than 32 GiB, or its text is not Unicode.
    """
    content = read_bounded(path, _MAX_BYTES, _name(path, role))
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        return _decode(content, _name(path, role)).encode()
    try:
        _check_utf8(content)
    except UnicodeDecodeError as error:
        raise UserError(f"{_name(path, role)}: {_undecodable(content, error)}") from None
    return content.removeprefix(codecs.BOM_UTF8)


def read_json_lines(path: Path) -> list[bytes]:
    """Lines of a file of JSON Lines, in UTF-8 without a byte order mark; the last may have been cut short.

    Bytes of a line that are no text stay, for ``parse_json`` to name the line. A file is in another encoding than UTF-8
    where its whole text is, and begins with a mapping: two damaged bytes at its start may equal a byte order mark.

    Raises:
        UserError: the file cannot be read.
    """
    content = read_bounded(path, _MAX_BYTES)
    encoding = json.detect_encoding(content)
    if not encoding.startswith("utf-8"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            text = ""
        if text.lstrip().startswith("{"):
            content = text.encode()
    return content.removeprefix(codecs.BOM_UTF8).split(b"\n")


def first_character(path: Path) -> str:
    """First character of a JSON file that is no space; empty if there is none, or the file cannot be read."""
    try:
        return next(iter_json_text(path)).decode().lstrip()[:1]
    except (OSError, UnicodeError):
        return ""


def iter_json_text(path: Path, block_bytes: int = _BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the JSON text of a file in blocks of UTF-8 without a byte order mark.

    Args:
        path: the file.
        block_bytes: bytes of the file that are read at a time.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: its text is not Unicode.
    """
    with open_regular(path) as file:
        block = file.read(block_bytes)
        decoder = codecs.getincrementaldecoder(json.detect_encoding(block))()
        while block:
            yield decoder.decode(block).encode()
            block = file.read(block_bytes)
        yield decoder.decode(b"", final=True).encode()


class _RepeatedKeyError(Exception):
    """A key that occurs twice in one mapping."""


def _unique_mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for k, key in enumerate(keys) if key in keys[:k]))
    return mapping


def _name(path: Path, role: str) -> str:
    return f"{role} {path}" if role else str(path)


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {_undecodable(content, error)}") from None


def _check_utf8(content: bytes) -> None:
    """Raise ``UnicodeDecodeError`` at bytes that are not UTF-8, without a second copy of a large file in memory."""
    if content.isascii():
        return
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(content)
    for start in range(0, len(view), _BLOCK_BYTES):
        decoder.decode(view[start : start + _BLOCK_BYTES], final=start + _BLOCK_BYTES >= len(view))


def _undecodable(content: bytes, error: UnicodeDecodeError) -> str:
    """Description of bytes that are not text in the encoding of their first characters."""
    return (
        _other_format(content)
        or f"not readable as JSON: its text is not valid {error.encoding.upper()}; save it as UTF-8"
    )


def _fault(text: str, error: json.JSONDecodeError) -> str:
    """Description of text that is not JSON, by what it is instead where that can be recognised."""
    if not text.strip():
        return "is empty"
    if other := _other_format(text[:64].lstrip().encode()):
        return other
    if error.msg == "Extra data" and error.lineno > 1:
        return f"not readable as JSON: a second value in line {error.lineno}; make one list of them"
    place = f"line {error.lineno} column {error.colno}"
    if _COMMENT.match(text, error.pos):
        return f"not readable as JSON: a comment in {place}; remove it"
    if text[error.pos : error.pos + 1] in ("]", "}") and text[: error.pos].rstrip().endswith(","):
        return f"not readable as JSON: a comma before the closing bracket in {place}; remove it"
    return f"not readable as JSON: {one_line(error)}"


def _other_format(content: bytes) -> str:
    return next((text for start, text in _OTHER_FORMATS.items() if content.startswith(start)), "")
