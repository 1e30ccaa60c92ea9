"""An interpolator for each enlargement of a neck, instead of one that all of them share.

Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from afictl.errors import UserError
from afictl.interpolators.base import Interpolator

_STEPS = "steps."
"""Prefix of the names of the tensors, before the number of the step."""


class PerStepInterpolator(Interpolator):
    """Interpolators of one kind and shape, one for each enlargement of a neck, each with weights of its own.

    Steps are numbered backwards from the last enlargement of a forward pass: step 0 enlarges to the neck's finest
    level. In an FPN of p2..p5 step 0 enlarges p3 to p2, and step 2 p5 to p4; steps 0 to 3 of a BiFPN are those of its
    last layer. A neck calls ``interpolator(coarse, fine, step)``, so that a hook on the module sees every call.

    Attributes:
        steps: the modules, by their number; ``kind``, ``channels``, ``options`` and so on are those of all of them.

    Args:
        steps: at least one, all of one kind with equal options. The modules themselves are used.

    Raises:
        UserError: no module, or modules that differ.
    """

    def __init__(self, steps: Sequence[Interpolator]) -> None:
        if not steps:
            raise UserError("an interpolator for each step needs at least one module")
        first = steps[0]
        super().__init__(first.channels)
        self.options = first.options
        self.kind = first.kind
        self.learned = getattr(first, "learned", True)
        self.needs_fine = getattr(first, "needs_fine", False)
        for step in steps:
            if (step.kind, step.channels, step.options) != (first.kind, first.channels, first.options):
                raise UserError(
                    "the steps of a neck have interpolators of one kind and shape:"
                    f" {_describe(first)} differs from {_describe(step)}"
                )
        self.steps = nn.ModuleList(steps)
        self.register_load_state_dict_pre_hook(_repeat_shared_weights)

    if TYPE_CHECKING:

        def __call__(self, coarse: Tensor, fine: Tensor | None = None, step: int = 0) -> Tensor:
            """Typed as ``forward``."""

    def forward(self, coarse: Tensor, fine: Tensor | None = None, step: int = 0) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold with the module of ``step``, by default that of the finest level."""
        return cast(Tensor, self.steps[step](coarse, fine))

    def of_level(self, index: int) -> Interpolator:
        """The module that enlarges a level; for a level that the neck does not enlarge, the nearest step's.

        Args:
            index: of the level, the neck's finest being 0.
        """
        return cast(Interpolator, self.steps[min(max(index - 1, 0), len(self.steps) - 1)])

    @property
    def description(self) -> dict[str, object]:
        """What a file of ``save`` says about its tensors."""
        return {**super().description, "steps": len(self.steps)}


def with_steps(interpolator: Interpolator, per_step: bool, num_steps: int) -> Interpolator:
    """The interpolator of a neck: ``interpolator`` itself if all enlargements share one, else a module for each.

    Args:
        interpolator: a single one, whose copies start every step; or, with ``per_step``, one that has all the steps.
        per_step: whether the neck has a module for each enlargement.
        num_steps: enlargements in one forward pass.

    Raises:
        UserError: ``interpolator`` has modules for another number of steps than the neck.
    """
    check_steps(interpolator, per_step, num_steps)
    if isinstance(interpolator, PerStepInterpolator) or not per_step:
        return interpolator
    return PerStepInterpolator([copy.deepcopy(interpolator) for _ in range(num_steps)])


def check_steps(interpolator: nn.Module, per_step: bool, num_steps: int) -> None:
    """Check that an interpolator fits a neck; arguments and errors as of ``with_steps``."""
    if not isinstance(interpolator, PerStepInterpolator):
        return
    present = len(interpolator.steps)
    if not per_step:
        raise UserError(
            f"the interpolator has a module for each of {present} steps, but this neck shares one between its steps; "
            "set neck.interpolators=per-step, or give a single interpolator"
        )
    if present != num_steps:
        raise UserError(
            f"the interpolator has a module for each of {present} steps, but this neck has {num_steps} steps; "
            "give a single interpolator, which starts every step"
        )


def split_steps(tensors: Mapping[str, Tensor], steps: object, source: str | Path) -> list[dict[str, Tensor]]:
    """The tensors of each step of a ``PerStepInterpolator``, under their names in its module.

    Args:
        steps: their number, as a file claims it.
        source: file to name in errors.

    Raises:
        UserError: another number of steps, or a tensor that belongs to none.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, separator, key = name.removeprefix(_STEPS).partition(".")
        if not (name.startswith(_STEPS) and separator and number.isdecimal()):
            raise UserError(
                f"{source}: has an interpolator for each step and a tensor of none, {name:.60}; make it again"
            )
        parts.setdefault(number, {})[key] = tensor
    if type(steps) is not int or steps < 1 or parts.keys() != set(map(str, range(steps))):
        raise UserError(
            f"{source}: its description has {steps!r:.20} steps, its tensors have {len(parts)}; make it again"
        )
    return [parts[str(number)] for number in range(steps)]


def repeat_shared_weights(state: Mapping[str, Tensor], module: PerStepInterpolator, prefix: str) -> dict[str, Tensor]:
    """A state dict in which the weights of a single interpolator under ``prefix`` become those of every step.

    A state dict with steps, or without an interpolator, is unchanged.
    """
    names = [name for name in state if name.startswith(prefix)]
    if any(re.match(rf"{_STEPS}\d+\.", name.removeprefix(prefix)) for name in names):
        return dict(state)
    repeated = {
        f"{prefix}{_STEPS}{step}.{name.removeprefix(prefix)}": state[name]
        for name in names
        for step in range(len(module.steps))
    }
    return {name: value for name, value in state.items() if not name.startswith(prefix)} | repeated


def _repeat_shared_weights(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Hook of ``load_state_dict``, which gives it a copy of the state dict to change."""
    repeated = repeat_shared_weights(state, cast(PerStepInterpolator, module), prefix)
    state.clear()
    state.update(repeated)


def _describe(interpolator: Interpolator) -> str:
    options = "".join(f", {name}={value}" for name, value in interpolator.options.items())
    return f"'{interpolator.kind}' of {interpolator.channels} channels{options}"
