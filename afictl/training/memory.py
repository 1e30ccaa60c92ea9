"""Training batches that cannot fit into memory, told before anything is built."""

from __future__ import annotations

import torch

from afictl.detectors.image_memory import require_image_memory, require_memory
from afictl.presets import Preset


def require_batch_memory(preset: Preset, stage: str, world_size: int, device: torch.device) -> None:
    """Check that a training batch and an image of the evaluation can fit, of square images of the largest size.

    Args:
        preset: sizes of the images, and the width of the neck.
        stage: key of the recipe, whose ``batch_size`` is the total: ``train``, of which a process computes a
            micro-batch at once, ``stage1`` or ``stage2``.
        world_size: number of processes that share the batch.
        device: of this process.

    Raises:
        UserError: they need more memory than there is, as ``require_memory``.
    """
    batch_size = preset.train.micro_batch_size if stage == "train" else getattr(preset, stage).batch_size
    count = max(1, batch_size // world_size)
    side = min(max(preset.input.min_sizes), preset.input.max_size)
    require_memory(preset, count, side, device, f"input.max_size, input.min_sizes or {stage}.batch_size")
    require_image_memory(preset, device)
