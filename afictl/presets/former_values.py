"""Values that shipped presets had in earlier versions: what began with one keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from afictl.presets.preset_files import parse_preset
from afictl.presets.schema import Preset


class _FormerValue(NamedTuple):
    """A corrected value, as JSON has it."""

    section: str
    key: str
    present: object
    former: object
    network: str = ""
    """Beginning of ``backbone.name`` of the presets with the value; empty where the value alone identifies them."""


_FORMER_VALUES = (
    _FormerValue("input", "mean", [0.4850196, 0.4579569, 0.4076039], [0.485, 0.456, 0.406]),  # ResNeSt
    _FormerValue("backbone", "options", {"drop_path_rate": 0.2}, {"drop_path_rate": 0.3}, "swin_large_"),
)


def with_former_values(preset: Preset, recorded: Mapping[str, object], source: str) -> tuple[Preset, str]:
    """``preset`` with those values of ``recorded`` that shipped presets of earlier versions had.

    Args:
        preset: today's.
        recorded: the preset that a run or a comparison began with.
        source: what began with it, for the message.

    Returns:
        The preset and a log line about it, which is empty for an unchanged preset.
    """
    values, notes = preset.model_dump(mode="json"), []
    for section, key, present, former, network in _FORMER_VALUES:
        stored = recorded.get(section)
        is_former = isinstance(stored, Mapping) and stored.get(key) == former
        if is_former and values[section][key] == present and preset.backbone.name.startswith(network):
            values[section][key] = former
            notes.append(f"{section}.{key}={former} of an earlier version's preset; today it is {present}")
    return (parse_preset(values), f"note: {source} keeps {' and '.join(notes)}") if notes else (preset, "")
