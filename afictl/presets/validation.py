"""Errors of pydantic about a preset as one line of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from afictl.errors import did_you_mean, plain_constraint
from afictl.presets.schema import Preset, Section, section_kinds

_MAX_ERRORS = 3
_GROUP_OF_KEYS = "is a group of keys; set one of them"
_MESSAGES = {
    "tuple_type": "needs a list, such as [128]",
    "too_short": "needs more entries",
    "model_type": _GROUP_OF_KEYS,
    "model_attributes_type": _GROUP_OF_KEYS,
    "dict_type": "is a group of keys, such as {key: value}",
}
"""pydantic's types of errors -> messages."""


def format_validation_error(error: ValidationError, section: str = "") -> str:
    """The first few errors about a ``Preset``, each as ``key: message``, on one line.

    Args:
        error: of pydantic.
        section: what stands before every key, such as ``"backbone.options."``.
    """
    return format_errors(error.errors(), section)


def errors_of_keys(error: ValidationError, keys: Iterable[str]) -> list[ErrorDetails]:
    """The errors about values below one of the dotted ``keys``."""
    parts = [set(key.split(".")) for key in keys]
    return [item for item in error.errors() if any(names <= set(map(str, item["loc"])) for names in parts)]


def format_errors(errors: Sequence[ErrorDetails], section: str = "") -> str:
    """``format_validation_error`` for a list of errors."""
    messages: list[str] = []
    for item in errors[:_MAX_ERRORS]:
        if messages and item["type"] == "too_short" and item["input"]:
            continue  # pydantic counts the valid entries only, and the invalid ones are reported already
        messages.append(section + _format(item))
    return "; ".join(messages)


def _format(item: ErrorDetails) -> str:
    location = [str(part) for part in item["loc"]]
    if not location:  # a rule over several keys, which names them itself
        return item["msg"].removeprefix("Value error, ")
    kinds = section_kinds(location[0])
    if item["type"] == "union_tag_invalid":
        kind = str(item["input"].get("kind"))
        return f"{location[0]}.kind: unknown kind '{kind}'{did_you_mean(kind, list(kinds))}"
    kind = location.pop(1) if kinds and len(location) > 1 else ""  # pydantic puts the kind behind the section
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        return f"{key}: {_unknown_key(location, kind)}"
    message = _MESSAGES.get(item["type"]) or plain_constraint(item["msg"])
    return f"{key}: {message} (got {item['input']!r:.60})"


def _unknown_key(location: list[str], kind: str) -> str:
    """What is wrong with a key, the most similar one, and for a section with kinds all keys of its kind."""
    *parents, name = location
    if not kind:
        return f"unknown key{_hint(parents, name)}"
    kinds = section_kinds(location[0])
    keys = [key for key in kinds[kind].model_fields if key != "kind"]
    other_kinds = [other for other, model in kinds.items() if name in model.model_fields]
    reason = f"not a key of {kind} but of {', '.join(other_kinds)}" if other_kinds else f"unknown key of {kind}"
    nearest = did_you_mean(name, keys)
    return f"{reason}{nearest if 'did you mean' in nearest else ''}; the keys of {kind} are {', '.join(keys)}"


def _hint(parents: list[str], name: str) -> str:
    """The key of that very name in a section, else the most similar one beside it."""
    keys = _keys_at(parents)
    inside = keys_named(name, parents)
    return f"; did you mean {' or '.join(inside)}?" if inside else did_you_mean(name, keys)


def keys_named(name: str, parents: Sequence[str] = ()) -> list[str]:
    """The keys ``SECTION.name`` of the sections under the location ``parents``, such as ``train.steps``."""
    return [f"{section}.{name}" for section in _keys_at([*parents]) if name in _keys_at([*parents, section])]


def _keys_at(location: list[str]) -> list[str]:
    """Keys under a dotted location; for a section with kinds those of all kinds."""
    model: type[BaseModel] = Preset
    for part in location:
        if kinds := section_kinds(part):
            return list(dict.fromkeys(key for config in kinds.values() for key in config.model_fields))
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Section):
            return []
        model = field.annotation
    return list(model.model_fields)
