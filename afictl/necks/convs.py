"""The convolution that all necks are made of, initialised as detectron2 does."""

from __future__ import annotations

from torch import nn


def make_conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, norm: bool = False) -> nn.Module:
    """A padded convolution with bias, or with ``norm`` one without bias and batch norm behind it.

    Args:
        kernel: height and width, odd; with ``stride`` 2 an odd size is rounded up.
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=not norm)
    initialise(conv)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels)) if norm else conv


def initialise(module: nn.Module) -> None:
    """Give a convolution its first weights, for ``Module.apply``: uniform Kaiming of gain 1, bias zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, a=1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
