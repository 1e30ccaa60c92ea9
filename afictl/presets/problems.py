"""What is wrong with the values of a preset, in the user's words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from afictl.errors import did_you_mean
from afictl.presets.schema import Preset, Section


def explain(error: ValidationError) -> str:
    """The first few problems of a pydantic error, each as ``key: what is wrong``, on one line."""
    problems = []
    for item in error.errors()[:3]:
        location = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            known = _keys_at(location[:-1])
            problems.append(f"{'.'.join(location)}: unknown key{did_you_mean(location[-1], known)}")
        else:
            problems.append(f"{'.'.join(location) or 'preset'}: {item['msg']} (got {item['input']!r:.60})")
    return "; ".join(problems)


def _keys_at(location: list[str]) -> list[str]:
    model: Any = Preset
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Section):
            return []
        model = field.annotation
    return list(model.model_fields)
