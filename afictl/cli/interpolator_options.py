"""``--interpolator`` together with ``--set interpolator.*``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from afictl.cli.preset_argument import load_buildable_preset
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.comparison import Method
    from afictl.presets import Preset


def load_preset_for(name: str, overrides: Sequence[str], interpolator: str | None) -> Preset:
    """Load a preset for ``--interpolator``: options of ``--set`` are those of its kind, and of no other.

    Args:
        name: ``--preset``.
        overrides: values of ``--set``.
        interpolator: kind, run or file; None for the preset's kind.

    Raises:
        UserError: as ``load_buildable_preset``, or a setting without effect.
    """
    from afictl.interpolators import kind_of_source
    from afictl.training.initial_weights import find_interpolator_file

    keys, kind = _interpolator_keys(overrides), None
    if interpolator is not None:
        kind = kind_of_source(interpolator)
        if kind is None and keys:
            find_interpolator_file(interpolator)  # the message on a misspelt kind comes first
            raise UserError(f"--set {keys[0]}: has no effect with --interpolator {interpolator}, which has its options")
        if "interpolator.kind" in keys:
            raise UserError(
                f"--set interpolator.kind: has no effect with --interpolator {interpolator}; give one of them"
            )
    return load_buildable_preset(name, overrides, kind)


def require_compared_options(preset: Preset, overrides: Sequence[str], methods: Sequence[Method]) -> None:
    """Check that ``--set interpolator.*`` has an effect on one of ``--interpolators``.

    Raises:
        UserError: the kind that it belongs to is not compared, or does not have such an option.
    """
    from afictl.interpolators import check_options, kind_of_source

    keys, config = _interpolator_keys(overrides), preset.interpolator
    if not keys:
        return
    if config.kind not in [kind_of_source(method.source) for method in methods]:
        raise UserError(
            f"--set {keys[0]}: belongs to the kind '{config.kind}', which --interpolators does not compare; name"
            " another one with --set interpolator.kind=KIND"
        )
    check_options(config.kind, config.options)


def _interpolator_keys(overrides: Sequence[str]) -> list[str]:
    from afictl.presets import overridden_values

    names = (key.split(".") for key in overridden_values(overrides))
    return [".".join(name) for name in names if name[0] == "interpolator" and name[1:] != ["checkpointing"]]
