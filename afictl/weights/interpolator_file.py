"""Interpolators from files: alone, of AFI-GAN's first stage, or inside a detector."""

from __future__ import annotations

from pathlib import Path

from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.interpolators import Interpolator
from afictl.meta_device import building_on_meta_device
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.description import DETECTOR, INTERPOLATOR_FORMATS
from afictl.weights.detector_file import described_preset
from afictl.weights.layouts import describe_content, to_afictl


def load_interpolator(path: str | Path, *, averaged: bool | None = None) -> Interpolator:
    """Read the interpolator of a file or run folder, on the CPU.

    A ``PerStepInterpolator`` from a detector whose enlargements have weights of their own, and from its file.

    Args:
        path: file of ``Interpolator.save``, AFI-GAN's generator, or a detector, of afictl or in another supported
            layout, with a learned interpolator inside.
        averaged: as in ``read_checkpoint``.

    Raises:
        UserError: unreadable, damaged, or without a learned interpolator.
    """
    return interpolator_of(to_afictl(read_checkpoint(path, averaged)))


def interpolator_of(checkpoint: Checkpoint) -> Interpolator:
    """``load_interpolator`` for a checkpoint already read, with afictl's names and description."""
    description, file = checkpoint.metadata, checkpoint.path
    if description.get("format") == DETECTOR:
        return _interpolator_of_detector(checkpoint)
    if description.get("format") not in INTERPOLATOR_FORMATS:
        raise UserError(
            f"{file}: contains {describe_content(checkpoint)}, not an interpolator; give a file of 'afictl pretrain'"
        )
    return Interpolator.from_description(description, checkpoint.tensors, file)


def _interpolator_of_detector(checkpoint: Checkpoint) -> Interpolator:
    preset = described_preset(checkpoint)
    with building_on_meta_device(checkpoint.path):
        detector = build_detector(preset)
    prefix = detector.interpolator_prefix
    tensors = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    kind = preset.interpolator.kind
    if not tensors:
        raise UserError(
            f"{checkpoint.path}: a detector without a learned interpolator: its interpolator '{kind}' has no weights;"
            f" use --interpolator {kind}"
        )
    config = {"channels": preset.neck.channels, **preset.interpolator.options}
    steps = detector.neck.num_upsamplers if preset.neck.interpolators == "per-step" else None
    return Interpolator.from_tensors(kind, config, tensors, checkpoint.path, steps)
