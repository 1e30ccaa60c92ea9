"""Interpolators from files: alone, of AFI-GAN's first stage, or inside a detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from afictl.detectors import build_detector
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator, build_interpolator
from afictl.meta_device import building_on_meta_device
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.content import held
from afictl.weights.description import DETECTOR, INTERPOLATOR
from afictl.weights.detector_file import described_preset
from afictl.weights.layouts import to_ours
from afictl.weights.loading import compare_tensors, load_tensors


def load_interpolator(path: str | Path) -> Any:
    """The interpolator of a file or run folder, a module on the CPU with ``kind``, ``channels`` and ``options``.

    Args:
        path: what ``AFInterpolator.save`` wrote, AFI-GAN's generator, or a detector, ours or not, with a learned
            interpolator inside.

    Raises:
        UserError: unreadable, damaged, or without a learned interpolator.
    """
    checkpoint = to_ours(read_checkpoint(path))
    kind = checkpoint.metadata.get("format")
    if kind == INTERPOLATOR and "origin" not in checkpoint.metadata:
        return AFInterpolator.load(checkpoint.path)
    if kind == INTERPOLATOR:
        return _filled(lambda: AFInterpolator(**checkpoint.metadata["config"]), checkpoint.tensors, checkpoint)
    if kind == DETECTOR:
        return _inside(checkpoint)
    raise UserError(
        f"{checkpoint.path}: holds {held(checkpoint)}, not an interpolator; give a file of 'afictl pretrain'"
    )


def _inside(checkpoint: Checkpoint) -> nn.Module:
    preset = described_preset(checkpoint)
    with building_on_meta_device(checkpoint.path):
        prefix = build_detector(preset).interpolator_prefix
    tensors = {k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)}
    if not tensors:
        kind = preset.interpolator.kind
        raise UserError(
            f"{checkpoint.path}: a detector without an AF interpolator: it holds the interpolator '{kind}', which has"
            f" no weights; for that write --interpolator {kind}"
        )
    config = preset.interpolator
    return _filled(lambda: build_interpolator(config.kind, preset.neck.channels, **config.options), tensors, checkpoint)


def _filled(make: Callable[[], nn.Module], tensors: dict[str, Tensor], checkpoint: Checkpoint) -> nn.Module:
    with building_on_meta_device(checkpoint.path):
        report = compare_tensors(make(), tensors)
    if not report.complete:
        raise UserError(f"{checkpoint.path}: its interpolator is not whole: {report}")
    module = make()
    load_tensors(module, tensors)
    return module
