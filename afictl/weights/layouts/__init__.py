"""Checkpoints of other projects, recognised by their tensors and told in our names.

A layout is a function ``translate(checkpoint) -> Checkpoint | None``: None when the tensors are not its own, else
the same weights under our names with the description of one of our files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from afictl.weights.checkpoint import Checkpoint
from afictl.weights.layouts.afigan import translate_discriminator, translate_generator
from afictl.weights.layouts.detectron2 import translate as translate_detectron2
from afictl.weights.layouts.mmdetection import translate as translate_mmdetection
from afictl.weights.layouts.torchvision import translate as translate_torchvision

LAYOUTS: tuple[Callable[[Checkpoint], Checkpoint | None], ...] = (
    translate_detectron2,
    translate_torchvision,
    translate_mmdetection,
    translate_generator,
    translate_discriminator,
)
"""Every foreign layout; the first that knows a checkpoint translates it."""

_PARALLEL = "module."


def to_ours(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint in our names and with our description, if its layout is known; else as it is."""
    if checkpoint.metadata.get("format"):
        return checkpoint
    checkpoint = replace(checkpoint, tensors=without_wrapper(checkpoint.tensors))
    for translate in LAYOUTS:
        translated = translate(checkpoint)
        if translated is not None:
            return translated
    return checkpoint


def without_wrapper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` without what PyTorch's wrapper for several devices puts before every name."""
    if not all(name.startswith(_PARALLEL) for name in tensors):
        return tensors
    return {name.removeprefix(_PARALLEL): value for name, value in tensors.items()}
