"""The interpolators that a substitution puts into a model, from an instance, a kind or a factory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

from torch import nn

from afictl.errors import UserError
from afictl.interpolators import Interpolator, PerStepInterpolator, build_interpolator

InterpolatorSource = nn.Module | str | Callable[[int], nn.Module]
"""An interpolator; a kind of interpolators; or a function from the width of maps to an interpolator."""


class Interpolators:
    """Interpolators for the steps of a model.

    Args:
        source: an instance is shared by all steps, a kind or factory gives each step its own.
        per_step: True and False override that.
    """

    def __init__(self, source: InterpolatorSource, per_step: bool | None) -> None:
        self._source = source
        self._shared = isinstance(source, nn.Module) if per_step is None else not per_step
        self._by_width: dict[int, nn.Module] = {}

    def for_pyramid(self, channels: int, place: str) -> nn.Module:
        """An interpolator for all enlargements of a pyramid of this width; ``place`` names it in errors.

        Raises:
            UserError: the instance is of another width, or the factory does not return a module of this width.
        """
        if not (self._shared and channels in self._by_width):
            self._by_width[channels] = _checked(self._make(channels), channels, place)
        return self._by_width[channels]

    def for_step(self, channels: int, place: str) -> nn.Module:
        """An interpolator for an enlargement of maps of this width, which gets no fine map.

        Raises:
            UserError: as of ``for_pyramid``; or the interpolator needs the fine map, or is made for several steps.
        """
        module = self.for_pyramid(channels, place)
        if isinstance(module, PerStepInterpolator):
            raise UserError(f"the interpolator is made for the steps of a pyramid, {place} has one; give a single one")
        if getattr(module, "needs_fine", False):
            kind = cast(Interpolator, module).kind
            raise UserError(f"interpolator '{kind}' needs the fine map, but {place} has only the coarse one at hand")
        return copy.deepcopy(module) if module is self._source and not self._shared else module

    def _make(self, channels: int) -> object:
        if isinstance(self._source, nn.Module):
            return self._source
        if isinstance(self._source, str):
            return build_interpolator(self._source, channels)
        return self._source(channels)


def _checked(module: object, channels: int, place: str) -> nn.Module:
    if not isinstance(module, nn.Module):
        raise UserError(
            f"substitute_interpolator: the factory returns {module!r:.60} for {channels} channels, no module"
        )
    width = getattr(module, "channels", channels)  # any module can upsample; some have a fixed width
    if width != channels:
        raise UserError(
            f"the interpolator is made for {width} channels, the model's {place} has {channels}; make one of "
            f"{channels} channels, or give a kind or factory instead, which makes one for each width"
        )
    return module
