"""Base class of all interpolators, with its file format, and helpers of their implementations.

Legend: N images, C channels, H x W the coarse map.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.errors import UserError, one_line
from afictl.meta_device import building_on_meta_device, require_bounded_options
from afictl.tensor_files import read_tensors, save_tensors

if TYPE_CHECKING:
    from typing_extensions import Self

AFI_FORMAT = "afi-interpolator"
"""``format`` in the files of kind ``afi``, which came first and name no kind."""
FORMAT = "interpolator"
"""``format`` in the files of all other learned kinds."""
_VERSION = 1
_MAX_OPTION = 65_536


class Interpolator(nn.Module):
    """Enlarges a feature map exactly twofold: ``interpolator(coarse, fine)``, (N, C, H, W) -> (N, C, 2H, 2W).

    A kind sets the class attributes, passes its options to ``__init__`` and implements ``forward``.

    Attributes:
        kind: name in presets, files and flags.
        learned: False for kinds without parameters.
        needs_fine: True for kinds that need the fine map.
        channels: C of the maps.
        options: the other arguments that build an interpolator of this shape.
    """

    kind: str
    learned: bool = True
    needs_fine: bool = False
    odd_options: ClassVar[tuple[str, ...]] = ()
    """Options that must be odd, as kernel sizes are."""
    real_options: ClassVar[tuple[str, ...]] = ()
    """Options that may be fractions."""

    def __init__(self, channels: int, **options: float) -> None:
        super().__init__()
        self.channels = channels
        self.options = options
        for name, value in self.config.items():
            self._check(name, value)

    @property
    def config(self) -> dict[str, float]:
        """The arguments that build an interpolator of this shape."""
        return {"channels": self.channels, **self.options}

    def _check(self, name: str, value: float) -> None:
        types = (int, float) if name in self.real_options else (int,)
        odd = name in self.odd_options
        if type(value) not in types or not value > 0 or (odd and value % 2 == 0):
            number = "number" if name in self.real_options else "odd whole number" if odd else "whole number"
            raise UserError(f"interpolator '{self.kind}': {name} must be a positive {number}, not {value!r:.60}")
        if value > _MAX_OPTION:
            raise UserError(f"interpolator '{self.kind}': {name} must be at most {_MAX_OPTION:,}, not {value!r:.60}")

    if TYPE_CHECKING:

        def __call__(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
            """Typed as ``forward``."""

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` twofold.

        Args:
            coarse: (N, C, H, W), any H and W.
            fine: (N, C, 2H or 2H - 1, 2W or 2W - 1), the map that the enlarged one will be added to; unused by most
                kinds.
        """
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write weights, kind and options to one safetensors file; a link is followed and stays.

        Raises:
            UserError: a kind without parameters.
        """
        if not self.learned:
            raise UserError(f"{path}: interpolator '{self.kind}' has no weights to save")
        save_tensors(path, self.state_dict(), self.description, named_by_user=True)

    @property
    def description(self) -> dict[str, object]:
        """What a file of ``save`` says about its tensors."""
        kind = {"format": AFI_FORMAT} if self.kind == "afi" else {"format": FORMAT, "kind": self.kind}
        return {**kind, "version": _VERSION, "config": self.config}

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of ``save``: an interpolator of the kind in the file, on the CPU.

        Raises:
            UserError: no such file, damaged, not an interpolator of a supported version, or not of this class.
        """
        tensors, description = read_tensors(path)
        return cls.from_description(description, tensors, path)

    @classmethod
    def from_description(
        cls, description: Mapping[str, object], tensors: Mapping[str, Tensor], source: str | Path
    ) -> Self:
        """The interpolator of a file with this ``description``; errors as from ``load``."""
        kind, config = described_kind(description, source), description.get("config")
        return cls.from_tensors(kind, config, tensors, source, description.get("steps"))

    @classmethod
    def from_tensors(
        cls, kind: str, config: object, tensors: Mapping[str, Tensor], source: str | Path, steps: object = None
    ) -> Self:
        """Build the interpolator of ``kind`` around ``tensors``, in float32, without drawing random numbers.

        Args:
            config: ``channels`` and options as a file claims them; validated.
            source: file or folder to name in errors.
            steps: number of modules of a ``PerStepInterpolator``, as a file claims it; None for another interpolator.

        Raises:
            UserError: configuration and weights do not fit, weights that are not finite, or not of this class.
        """
        # here, for these modules import this one
        from afictl.interpolators import build_interpolator
        from afictl.interpolators.per_step import PerStepInterpolator, split_steps

        if steps is not None:
            parts = [
                Interpolator.from_tensors(kind, config, part, source) for part in split_steps(tensors, steps, source)
            ]
            return cls._require_class(PerStepInterpolator(parts), source)
        try:
            if not isinstance(config, dict):
                raise UserError("no configuration in its description")
            require_bounded_options(config, source)
            with building_on_meta_device(source):
                interpolator = build_interpolator(kind, **config)
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise UserError("NaN or infinite weights")
            # Copies: tensors of a file are mapped, so that later changes of the file in place would reach them.
            interpolator.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = one_line(error).removeprefix(f"{source}: ")
            raise UserError(f"{source}: weights and configuration do not fit ({reason:.200}); make it again") from None
        return cls._require_class(interpolator.float(), source)

    @classmethod
    def _require_class(cls, interpolator: Interpolator, source: str | Path) -> Self:
        if not isinstance(interpolator, cls):
            steps = " for each step" if hasattr(interpolator, "steps") else ""
            raise UserError(
                f"{source}: contains the interpolator '{interpolator.kind}'{steps}, not '{cls.kind}';"
                " use Interpolator.load"
            )
        return interpolator


def described_kind(description: Mapping[str, object], source: str | Path) -> str:
    """Kind of the interpolator in a file with this ``description``.

    Raises:
        UserError: the file contains something else, or an interpolator of another version.
    """
    if description.get("format") not in (AFI_FORMAT, FORMAT):
        content = description.get("format", "tensors without a description")
        raise UserError(f"{source}: contains {content}, not an interpolator; give the file that 'afictl pretrain' made")
    if description.get("version") != _VERSION:
        raise UserError(f"{source}: interpolator file of version {description.get('version')}; update afictl")
    return "afi" if description["format"] == AFI_FORMAT else str(description.get("kind"))


def require_divisor(interpolator: Interpolator, option: str, value: int) -> None:
    """Check that the ``value`` of an option divides the interpolator's channels.

    Raises:
        UserError: it does not.
    """
    kind, channels = interpolator.kind, interpolator.channels
    if channels % value:
        raise UserError(f"interpolator '{kind}': {option}={value} does not divide the {channels} channels")


def zero_biases(module: nn.Module) -> None:
    """Set every bias in ``module`` to zero."""
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(value)


def replicate_border(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H + 2, W + 2), the border repeated once on every side.

    Equals ``F.pad(maps, (1, 1, 1, 1), mode="replicate")``, whose backward pass fails under ``torch.compile`` when the
    compiler prefers channels last (torch 2.14), and is not deterministic on CUDA.
    """
    maps = torch.cat((maps[..., :1, :], maps, maps[..., -1:, :]), dim=-2)
    return torch.cat((maps[..., :1], maps, maps[..., -1:]), dim=-1)


def require_fine(kind: str, coarse: Tensor, fine: Tensor | None) -> Tensor:
    """Return ``fine`` (N, C, 2H or 2H - 1, 2W or 2W - 1) if it fits ``coarse`` (N, C, H, W).

    Raises:
        UserError: it is None or has another size.
    """
    if fine is None:
        raise UserError(f"interpolator '{kind}' needs the fine map: call interpolator(coarse, fine)")
    (h, w), (height, width) = coarse.shape[-2:], fine.shape[-2:]
    if 2 * h - height not in (0, 1) or 2 * w - width not in (0, 1):
        raise UserError(f"interpolator '{kind}' enlarges twofold, but the maps are {h}x{w} and {height}x{width}")
    return fine


def pad_fine(values: Tensor, coarse: Tensor) -> Tensor:
    """Zero-pad ``values`` (N, c, 2H or 2H - 1, ...) below and right to twice the size of ``coarse`` (..., H, W).

    A neck cuts the enlarged map to the size of the fine one. Pad values only after the last operation that mixes
    neighbouring fine pixels, so that the part that remains does not depend on the padding.
    """
    (h, w), (height, width) = coarse.shape[-2:], values.shape[-2:]
    if (height, width) == (2 * h, 2 * w):
        return values  # F.pad would copy
    return F.pad(values, (0, 2 * w - width, 0, 2 * h - height))
