"""The contract of a neck, and the layers that necks share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.presets import Preset


class Neck(Protocol):
    """Backbone maps -> feature pyramid, with the interpolator as a part."""

    channels: int
    """Channels of every level."""
    strides: dict[str, int]
    """Stride of each level in pixels, finest first."""
    size_divisor: int
    """In images whose sides are multiples of it every level is exactly half as large as the next finer one."""
    num_upsamplers: int
    """Calls of the interpolator in one forward pass."""

    @property
    def interpolator(self) -> Interpolator:
        """The module that upsamples; a ``PerStepInterpolator`` where each enlargement has weights of its own."""

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res{i}`` (N, c_i, H / 2^i, W / 2^i) -> ``p{i}`` (N, C, H / 2^i, W / 2^i), rounded up."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the neck and its interpolator."""


def upsample_to(interpolator: Interpolator, coarse: Tensor, fine: Tensor, step: int = 0) -> Tensor:
    """Upsample ``coarse`` (N, C, h, w) to the height and width of ``fine`` (N, C, H, W).

    ``step`` is the number of the enlargement, see ``PerStepInterpolator``; other interpolators serve all steps.

    Strided convolutions round up, so an odd H has h = (H + 1) / 2: the upsampled map is one row too tall and
    loses its last row. With the nearest interpolator this equals ``F.interpolate(coarse, size=(H, W))``.
    """
    height, width = fine.shape[-2:]
    if isinstance(interpolator, PerStepInterpolator):
        return interpolator(coarse, fine, step)[..., :height, :width]
    return interpolator(coarse, fine)[..., :height, :width]


def preset_with(preset: Preset, interpolator: Interpolator) -> Preset:
    """``preset`` with the kind and options of a neck's ``interpolator``, and how the enlargements share it."""
    sharing = "per-step" if isinstance(interpolator, PerStepInterpolator) else "shared"
    neck = preset.neck.model_copy(update={"interpolators": sharing})
    return preset.with_interpolator(interpolator.kind, interpolator.options).model_copy(update={"neck": neck})


def make_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, norm: bool = False) -> nn.Module:
    """A padded convolution with bias, or with ``norm`` one without bias followed by batch norm, initialised.

    Args:
        kernel: height and width, odd; with ``stride`` 2 an odd size is rounded up.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not norm)
    init_conv(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels)) if norm else conv


def init_conv(module: nn.Module) -> None:
    """Initialise a convolution as detectron2's necks, for ``Module.apply``: uniform Kaiming of gain 1, bias zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
