"""Reading of small XML files from elsewhere: bounded in size and depth, without document types and their entities."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from afictl.errors import UserError
from afictl.regular_files import read_bounded

_MAX_BYTES = 2**22
_MAX_DEPTH = 50


class _Builder(TreeBuilder):
    """Tree of limited depth."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def open(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UserError("nested too deep")
        self.start(tag, attributes)

    def close_element(self, tag: str) -> None:
        self._depth -= 1
        self.end(tag)


def read_xml(path: Path) -> Element:
    """The root element of an XML file.

    A document type, which alone can define entities or name other files, is refused.

    Raises:
        UserError: unreadable, larger than 4 MiB, not XML, with a document type, or nested deeper than 50 elements.
    """
    content = read_bounded(path, _MAX_BYTES)
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.open
    parser.EndElementHandler = builder.close_element
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, UserError, ValueError, LookupError) as error:
        raise UserError(f"{path}: not readable as XML: {error!s:.200}") from None


def _refuse_document_type(*_: object) -> NoReturn:
    raise UserError("it has a document type (<!DOCTYPE>), which may define entities; remove it")
