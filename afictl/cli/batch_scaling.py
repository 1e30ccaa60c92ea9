"""``--scale-lr``: the learning rate of a preset for another total batch."""

from __future__ import annotations

from collections.abc import Sequence

from afictl.errors import UserError

_KEYS = ("train.lr", "train.lr_batch_size")


def scaled_overrides(preset: str, overrides: Sequence[str]) -> list[str]:
    """``overrides`` with ``train.lr_batch_size``, the total batch of the preset without them.

    Args:
        preset: ``--preset``.
        overrides: values of ``--set``.

    Raises:
        UserError: as ``load_preset``, or the flag has no effect.
    """
    from afictl.presets import load_preset, overridden_values

    if given := [key for key in _KEYS if key in overridden_values(overrides)]:
        raise UserError(f"--scale-lr: scales the preset's learning rate; leave it out, or --set {given[0]}")
    recipe, changed = load_preset(preset).train, load_preset(preset, overrides).train
    if recipe.lr_batch_size is not None:
        raise UserError(f"--scale-lr has no effect: the preset has train.lr_batch_size={recipe.lr_batch_size}")
    if recipe.batch_size == changed.batch_size:
        raise UserError(
            f"--scale-lr has no effect: the total batch is that of the preset, {recipe.batch_size}; leave the flag out,"
            " or set another train.batch_size"
        )
    return [*overrides, f"train.lr_batch_size={recipe.batch_size}"]
