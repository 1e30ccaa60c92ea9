"""Batches that cannot fit into memory, told before anything is built."""

from __future__ import annotations

import torch

from afictl.errors import UserError
from afictl.memory import machine_memory
from afictl.presets import Preset

_PIXEL_BYTES = 88
"""The image and the padded batch in float32, and the output of a stem of 64 channels at half the size."""
_STRIDE = 8
"""Of the finest map of every neck, or coarser than it."""


def require_batch_memory(preset: Preset, stage: str, world_size: int, device: torch.device) -> None:
    """Check that a training batch and an image of the evaluation can fit, of square images of the largest size.

    The estimate is a lower bound, a tenth or less of what training takes: what passes may still be too large.

    Args:
        preset: sizes of the images, and the width of the neck.
        stage: key of the recipe, whose ``batch_size`` is the total: ``train``, ``stage1`` or ``stage2``.
        world_size: number of processes that share the batch.
        device: of this process.

    Raises:
        UserError: they need more memory than the device, or without a GPU the machine, has.
    """
    count = max(1, getattr(preset, stage).batch_size // world_size)
    _require_memory(preset, count, max(preset.input.min_sizes), device, f"input.min_sizes or {stage}.batch_size")
    require_image_memory(preset, device)


def require_image_memory(preset: Preset, device: torch.device) -> None:
    """Check that an image of the evaluation can fit, as ``require_batch_memory``.

    Raises:
        UserError: it needs more memory than there is.
    """
    _require_memory(preset, 1, preset.input.test_size, device, "input.test_size")


def _require_memory(preset: Preset, count: int, size: int, device: torch.device, keys: str) -> None:
    """Check ``count`` square images with sides of ``size``, or of ``input.max_size`` if that is less."""
    is_gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if is_gpu else machine_memory()
    side = min(size, preset.input.max_size)
    needed = count * side**2 * (_PIXEL_BYTES + 4 * preset.neck.channels / _STRIDE**2)
    if needed > memory:
        raise UserError(
            f"{preset.name}: {count} image{'s' * (count > 1)} of {side}x{side} pixels take at least"
            f" {needed / 1e9:,.0f} GB, of {memory / 1e9:,.0f} GB of memory; reduce input.max_size, {keys}"
        )
