"""Pre-training of the AF interpolator: stages 1 and 2 one after the other, each a run of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from afictl.data import load_coco
from afictl.discriminator import PatchDiscriminator
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator
from afictl.presets import Preset, parse_preset
from afictl.training.run import INTERPOLATOR, Run
from afictl.training.stage1 import stage1
from afictl.training.stage2 import build_student, stage2
from afictl.training.step import Splits
from afictl.weights import load_detector


def pretrain(
    fabric: Fabric,
    guide_path: Path,
    data: Path,
    output: Path,
    *,
    stages: Sequence[int] = (1, 2),
    overrides: Iterable[str] = (),
    seed: int = 0,
    resume: bool = False,
) -> Path:
    """Train an AF interpolator on the features of a guide.

    ``output/stage1`` and ``output/stage2`` become runs; ``output/interpolator.safetensors`` is the result of the last
    stage asked for.

    Args:
        guide_path: run or checkpoint of a trained detector, whose preset holds the recipes ``stage1`` and ``stage2``.
        overrides: settings on top of the guide's preset, such as ``stage1.steps=100``.
        stages: (1,), (2,) to go on from a finished stage 1 in ``output``, or both.

    Returns:
        The interpolator's file.

    Raises:
        UserError: guide, data or output that do not fit.
    """
    splits = (load_coco(data, "train"), load_coco(data, "val"))
    loaded = load_detector(guide_path)
    preset = parse_preset(loaded.preset.model_dump(), overrides, source=str(guide_path))
    _check_classes(loaded.classes, splits, guide_path)
    guide = loaded.detector.eval().requires_grad_(False)
    fabric.to_device(guide)
    torch.manual_seed(seed)
    interpolator = AFInterpolator(preset.neck.channels, **_afi_options(preset))
    discriminator = PatchDiscriminator(preset.neck.channels)
    for number in stages:
        config = {
            "command": f"pretrain, stage {number}",
            "preset": preset.model_dump(mode="json"),
            "data": str(data.resolve()),
            "guide": str(guide_path),
            "seed": seed,
        }
        if number == 2:
            _load_stage1(output / "stage1", interpolator, discriminator)
        run = Run(fabric, output / f"stage{number}", config, resume)
        if number == 1:
            stage1(fabric, run, guide, preset, interpolator, discriminator, splits, seed)
        else:
            student = build_student(guide, preset, interpolator)
            stage2(fabric, run, guide, student, discriminator, splits, seed)
        if fabric.is_global_zero:
            AFInterpolator.load(run.folder / INTERPOLATOR).save(output / INTERPOLATOR)
        fabric.barrier()
    return output / INTERPOLATOR


def _afi_options(preset: Preset) -> dict[str, Any]:
    """Options of the AF interpolator, also where the guide itself has another kind."""
    return dict(preset.interpolator.options) if preset.interpolator.kind == "afi" else {}


def _check_classes(classes: tuple[str, ...], splits: Splits, guide: Path) -> None:
    if tuple(classes) != tuple(splits[0].classes):
        raise UserError(
            f"{splits[0].annotation_file}: its {len(splits[0].classes)} classes are not the {len(classes)} of the guide"
            f" {guide}; fine-tune the guide on this data set first"
        )


def _load_stage1(folder: Path, interpolator: AFInterpolator, discriminator: PatchDiscriminator) -> None:
    """Take both networks over from the end of stage 1."""
    state_file = folder / "state.pt"
    if not state_file.is_file():
        raise UserError(f"{folder}: stage 2 starts from a finished stage 1, which is not there; add --stages 1,2")
    state = torch.load(state_file, weights_only=True, map_location="cpu")
    interpolator.load_state_dict({k.removeprefix("module."): v for k, v in state["generator"].items()})
    discriminator.load_state_dict({k.removeprefix("module."): v for k, v in state["discriminator"].items()})
