"""Reading and writing of YAML: presets, settings on the command line, and the settings of a run.

YAML 1.1 reads ``010`` as eight, ``1:30`` as ninety and ``1e-3`` as text, keeps the last of two equal keys, and lets a
text of a kilobyte stand for gigabytes. Here a number has its decimal value, and what cannot be meant is an error that
names the source, the line and the key.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NoReturn

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from afictl.errors import UserError, one_line
from afictl.regular_files import read_bounded

_MAX_BYTES = 2**20
_MAX_DEPTH = 50
_MAX_VALUES = 100_000
"""Limit of the values of a text with all its aliases written out."""
_MAX_DIGITS = 400
_SHOWN_KEYS = 6

_TAGS = {name: f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
_AMBIGUOUS = "!ambiguous"
"""Tag of numbers that the versions of YAML read differently."""
_AMBIGUOUS_REASON = (
    "one number to some readers of YAML and another to others (octal, grouped or sexagesimal); write it as a plain"
    " decimal number, or in quotes if it is text"
)
_TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON")
_FALSE = ("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF")
_POINT = re.compile(r"\.(?=[a-zA-Z])")
"""The point of ``.inf`` and ``.nan``."""
_PLAIN_VALUES = {
    _TAGS["null"]: ("~|null|Null|NULL|", [*"~nN", ""]),
    _TAGS["bool"]: ("|".join(_TRUE + _FALSE), [*"tTfFyYnNoO"]),
    _TAGS["merge"]: ("<<", ["<"]),
    _TAGS["int"]: (r"[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    _TAGS["float"]: (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
    _AMBIGUOUS: (
        r"[-+]?0[0-9]+"  # octal
        r"|[-+]?0[xXoObB][0-9a-fA-F_]+"
        r"|[-+]?[0-9][0-9]*_[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?",  # sexagesimal
        [*"-+0123456789"],
    ),
}
"""Tag -> pattern of the unquoted text that has it, and its first characters; all other text is a string."""


class _Resolver(BaseResolver):
    """Tags of unquoted text."""


for _tag, (_pattern, _first) in _PLAIN_VALUES.items():
    _Resolver.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


class _Composer(Reader, Scanner, Parser, Composer, _Resolver):
    """Nodes of a text of limited depth."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; refuses one that is nested too deep, for which the recursion would not suffice."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=self.peek_event().start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(_Resolver, yaml.SafeDumper):
    """Quotes every string that would be read as something else, and repeats values instead of referring to them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def read_yaml(path: Path) -> object:
    """Read a YAML file in UTF-8, UTF-16 or UTF-32, with or without byte order mark; an empty one is None.

    Raises:
        UserError: unreadable, larger than a mebibyte, or as ``parse_yaml``.
    """
    content = read_bounded(path, _MAX_BYTES)
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not readable as YAML: not a text in UTF-8 or UTF-16") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> object:
    """Parse YAML of numbers, booleans, strings, null, lists, and mappings of text.

    Args:
        text: the YAML.
        source: file or flag to name in errors.

    Raises:
        UserError: not YAML, a key twice, a number that YAML 1.1 and 1.2 read differently, a tag, or values that are
            nested too deep or too many.
    """
    has_lines = "\n" in text.strip()
    try:
        node = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark and has_lines else ""
        raise UserError(f"{source}: {line}not readable as YAML: {one_line(error.problem):.200}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not readable as YAML: {one_line(error):.200}") from None
    return None if node is None else _ValueBuilder(source, has_lines).build(node, ())


def dump_yaml(values: object, *, flow: bool = False) -> str:
    """YAML of plain values that ``parse_yaml`` reads back equal; ``flow``: on one line, in braces and brackets."""
    width = 2**20 if flow else None
    text: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=flow, allow_unicode=True, default_flow_style=flow, width=width
    )
    return text.strip() if flow else text


class _ValueBuilder:
    """Python values of YAML nodes; ``keys`` is the path from the top to a value."""

    def __init__(self, source: str, has_lines: bool) -> None:
        self._source = source
        self._has_lines = has_lines
        self._count = 0

    def build(self, node: yaml.Node, keys: tuple[str, ...]) -> object:
        """The value of ``node``."""
        self._count += 1
        if self._count > _MAX_VALUES or len(keys) > _MAX_DEPTH:
            self._refuse(node, keys, "its aliases (*name) stand for too many values; write the values instead")
        if isinstance(node, yaml.MappingNode) and node.tag == _TAGS["map"]:
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAGS["seq"]:
            return [self.build(item, (*keys, str(index))) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, keys)
        self._refuse(node, keys, f"the tag {node.tag:.60} gives no plain value of YAML; write the value")

    def _mapping(self, node: yaml.MappingNode, keys: tuple[str, ...]) -> dict[str, object]:
        values: dict[str, object] = {}
        merged: dict[str, object] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, keys, "a key is a word, not a list or mapping")
            if key_node.tag == _TAGS["merge"]:
                merged |= self._merged(value_node, keys)
                continue
            name, line = self._text(key_node, keys), key_node.start_mark.line + 1
            if name in lines:
                self._refuse(key_node, (*keys, name), f"is given twice, first in line {lines[name]}; write it once")
            lines[name] = line
            values[name] = self.build(value_node, (*keys, name))
        return {**merged, **values}

    def _merged(self, node: yaml.Node, keys: tuple[str, ...]) -> dict[str, object]:
        """The mapping, or mappings with the first on top, of a merge key ``<<``."""
        items = node.value[::-1] if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, object] = {}
        for item in items:
            value = self.build(item, (*keys, "<<"))
            if not isinstance(value, dict):
                self._refuse(item, (*keys, "<<"), "merges mappings only")
            merged |= value
        return merged

    def _scalar(self, node: yaml.ScalarNode, keys: tuple[str, ...]) -> object:
        text, tag = str(node.value), node.tag
        if tag in (_TAGS["str"], _TAGS["merge"]):
            return self._text(node, keys)
        if tag == _TAGS["null"]:
            return None
        if tag == _TAGS["bool"] and text in _TRUE + _FALSE:
            return text in _TRUE
        if tag == _AMBIGUOUS:
            self._refuse(node, keys, f"{text:.40} is {_AMBIGUOUS_REASON}")
        if tag in (_TAGS["int"], _TAGS["float"]):
            return self._number(node, keys)
        self._refuse(node, keys, f"the tag {tag:.60} gives no plain value of YAML; write the value")

    def _text(self, node: yaml.ScalarNode, keys: tuple[str, ...]) -> str:
        text = str(node.value)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self._refuse(node, keys, "not valid Unicode: it has half of a surrogate pair")
        return text

    def _number(self, node: yaml.ScalarNode, keys: tuple[str, ...]) -> float:
        text = str(node.value)
        if len(text) > _MAX_DIGITS:
            self._refuse(node, keys, f"a number of {len(text)} characters")
        try:
            return int(text) if node.tag == _TAGS["int"] else float(_POINT.sub("", text))
        except ValueError:
            self._refuse(node, keys, f"{text:.40} is no number")

    def _refuse(self, node: yaml.Node, keys: tuple[str, ...], reason: str) -> NoReturn:
        line = f"line {node.start_mark.line + 1}: " if self._has_lines else ""
        key = f"{'.'.join(keys[:_SHOWN_KEYS])}: " if keys else ""
        raise UserError(f"{self._source}: {line}{key}{reason}")
