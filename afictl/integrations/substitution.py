"""The result of a substitution: what was replaced, what was not reached, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from afictl.errors import UserError


class UpsamplingStep(NamedTuple):
    """An enlargement in a model that an interpolator can replace."""

    path: str
    """Of the module that enlarges, as in ``named_modules``; the whole pyramid of torchvision, detectron2 or afictl."""
    call: int | None
    """Number of the call of ``interpolate`` in one ``forward`` of that module, from 0; None for a pyramid."""
    channels: int
    """Width of the maps."""
    mode: str
    """``nearest``, ``bilinear`` and so on; ``bilinear, corners aligned``; the kind of a pyramid's interpolator."""
    runs: int
    """Enlargements in one forward pass of the model."""
    scale: int = 2


class UnreachedStep(NamedTuple):
    """An enlargement in a model that no interpolator replaces."""

    path: str
    """Of the module that enlarges."""
    reason: str
    runs: int
    """Enlargements in one forward pass of the model; 0 where the model has not been run."""


class Replacement:
    """A change of one object: its class and some of its attributes.

    Args:
        target: the object.
        new_class: its class afterwards.
        attributes: their values afterwards.
    """

    def __init__(self, target: object, new_class: type, attributes: dict[str, object]) -> None:
        self._target = target
        self._after = (new_class, attributes)
        self._before = (type(target), {name: getattr(target, name, _ABSENT) for name in attributes})

    def apply(self) -> None:
        """Change the object."""
        self._set(*self._after)

    def undo(self) -> None:
        """Change it back."""
        self._set(*self._before)

    @property
    def is_latest(self) -> bool:
        """Whether the object still is as ``apply`` left it."""
        cls, attributes = self._after
        same = all(getattr(self._target, name, _ABSENT) is value for name, value in attributes.items())
        return type(self._target) is cls and same

    def _set(self, cls: type, attributes: dict[str, object]) -> None:
        self._target.__class__ = cls
        for name, value in attributes.items():
            if value is _ABSENT:
                delattr(self._target, name)
            else:
                setattr(self._target, name, value)


_ABSENT = object()


class Substitution(int):
    """Number of enlargements that the interpolators compute in one forward pass, with the details.

    Attributes:
        replaced: the steps that have an interpolator now, in the order of the forward pass.
        unreached: enlargements that have none, with the reasons; those that ``where`` left out are not among them.
    """

    replaced: tuple[UpsamplingStep, ...]
    unreached: tuple[UnreachedStep, ...]
    _replacements: tuple[Replacement, ...]

    def __new__(
        cls,
        replaced: Sequence[UpsamplingStep],
        unreached: Sequence[UnreachedStep],
        replacements: Sequence[Replacement],
    ) -> Substitution:
        """A substitution whose ``replacements`` have been applied."""
        self = super().__new__(cls, sum(step.runs for step in replaced))
        self.replaced = tuple(replaced)
        self.unreached = tuple(unreached)
        self._replacements = tuple(replacements)
        return self

    def undo(self) -> None:
        """Give the model the classes and upsampling back that it had before; its other weights stay as they are now.

        Raises:
            UserError: undone already, or a later substitution has changed the model.
        """
        if not all(replacement.is_latest for replacement in self._replacements):
            raise UserError("the model has changed since this substitution: undo the later ones first, each once")
        for replacement in reversed(self._replacements):
            replacement.undo()

    def summary(self) -> str:
        """One line for each step, those that were not reached last."""
        lines = [
            f"{step.path or 'model'}{'' if step.call is None else f', call {step.call}'}: x{step.scale}, "
            f"{step.channels} channels, {step.mode} replaced, {_times(step.runs)}"
            for step in self.replaced
        ]
        lines += [f"{step.path or 'model'}: not reached, {step.reason}, {_times(step.runs)}" for step in self.unreached]
        return "\n".join(lines)


def _times(runs: int) -> str:
    return "not run" if runs == 0 else "1 run" if runs == 1 else f"{runs} runs"


def without_upsampling(model: nn.Module, unreached: Sequence[UnreachedStep]) -> UserError:
    """The error for a model in which nothing can be replaced."""
    reasons = "".join(f"; {step.path or 'model'}: {step.reason}" for step in unreached)
    return UserError(f"{type(model).__name__} has no upsampling step to replace{reasons:.600}")
