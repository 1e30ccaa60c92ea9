"""What is wrong with the values of a preset, in the user's words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from afictl.errors import did_you_mean
from afictl.presets.schema import Preset, Section

_IN_PLAIN_WORDS = {
    "tuple_type": "needs a list, such as [128]",
    "too_short": "needs more entries",
    "model_type": "is a group of keys; set one of them",
    "dict_type": "is a group of keys, such as {key: value}",
}


def explain(error: ValidationError) -> str:
    """The first few problems of a pydantic error, each as ``key: what is wrong``, on one line."""
    problems: list[str] = []
    for item in error.errors()[:3]:
        location = [str(part) for part in item["loc"]]
        key = ".".join(location)
        if problems and item["type"] == "too_short" and item["input"]:
            continue  # pydantic counts the entries that are right, and the wrong ones are told already
        if item["type"] == "extra_forbidden":
            problems.append(f"{key}: unknown key{_nearest(location)}")
        elif not location:  # a rule over several keys, which names them itself
            problems.append(str(item["msg"]).removeprefix("Value error, "))
        else:
            wanted = _IN_PLAIN_WORDS.get(item["type"], item["msg"])
            problems.append(f"{key}: {wanted} (got {item['input']!r:.60})")
    return "; ".join(problems)


def _nearest(location: list[str]) -> str:
    """The key that was meant: one of that very name in a section, else the most similar beside it."""
    *parents, name = location
    known = _keys_at(parents)
    inside = [f"{section}.{name}" for section in known if name in _keys_at([*parents, section])]
    return f"; did you mean {' or '.join(inside)}?" if inside else did_you_mean(name, known)


def _keys_at(location: list[str]) -> list[str]:
    model: Any = Preset
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Section):
            return []
        model = field.annotation
    return list(model.model_fields)
