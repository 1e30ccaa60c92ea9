"""``--preset`` together with ``--set``: a preset of which a detector can be built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.presets import Preset

_SECTIONS_OF_MODULES = frozenset({"backbone", "neck", "interpolator", "detector"})


def load_buildable_preset(name: str, overrides: Sequence[str], kind: str | None = None) -> Preset:
    """``load_preset``, and check what the schema cannot know: the options of the backbone and of the interpolator.

    Args:
        name: ``--preset``.
        overrides: values of ``--set``.
        kind: of ``--interpolator``; None for that of the preset.

    Raises:
        UserError: as ``load_preset``, or no detector can be built of it; the message names the file, or the flag.
    """
    from afictl.presets import list_presets, list_torchvision_presets, load_preset, overridden_values

    preset = load_preset(name, [*overrides, *([f"interpolator.kind={kind}"] if kind else [])])
    is_shipped = name.removeprefix("preset:") in (*list_presets(), *list_torchvision_presets())
    is_changed = any(key.partition(".")[0] in _SECTIONS_OF_MODULES for key in overridden_values(overrides))
    if is_shipped and not (is_changed or kind):
        return preset
    try:
        _check_modules(preset, "--set" if is_changed else f"--interpolator {kind}" if kind else name)
    except UserError:
        if (is_changed or kind) and not is_shipped:
            _check_modules(load_preset(name), name)
        raise
    return preset


def _check_modules(preset: Preset, source: str) -> None:
    from afictl.detectors import build_detector
    from afictl.meta_device import building_on_meta_device

    with building_on_meta_device(source):
        build_detector(preset)
