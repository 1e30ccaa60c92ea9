"""Images that cannot fit into memory, told before they are resized."""

from __future__ import annotations

import torch

from afictl.errors import UserError
from afictl.machine import machine_memory
from afictl.presets import Preset

_PIXEL_BYTES = 88
"""The image and the padded batch in float32, and the output of a stem of 64 channels at half the size."""
_STRIDE = 8
"""Of the finest map of every neck, or coarser than it."""


def device_memory(device: torch.device) -> float:
    """Bytes of memory of a GPU, or without one of the machine; infinite where it is not known."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


def require_image_memory(preset: Preset, device: torch.device) -> None:
    """Check that an image of the evaluation can fit, a square of the largest size.

    Raises:
        UserError: it needs more memory than there is, as ``require_memory``.
    """
    side = min(preset.input.test_size, preset.input.max_size)
    require_memory(preset, 1, side, device, "input.max_size or input.test_size")


def require_memory(preset: Preset, count: int, side: int, device: torch.device, settings: str) -> None:
    """Check that a batch of ``count`` square images can fit, before it is made.

    The estimate is a lower bound, a tenth or less of what training takes: what passes may still be too large.

    Args:
        preset: width of the neck, and the name in the error.
        count: images on this device.
        side: of an image, in pixels.
        device: of this process.
        settings: names of the settings or flags that make it smaller.

    Raises:
        UserError: they need more memory than the device, or without a GPU the machine, has.
    """
    memory = device_memory(device)
    needed = count * side**2 * (_PIXEL_BYTES + 4 * preset.neck.channels / _STRIDE**2)
    if needed > memory:
        raise UserError(
            f"{preset.name}: {count} image{'s' * (count > 1)} of {side}x{side} pixels take at least"
            f" {needed / 1e9:,.0f} GB, of {memory / 1e9:,.0f} GB of memory; reduce {settings}"
        )
