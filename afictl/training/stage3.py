"""Stage 3: ordinary training of a detector with any interpolator. Guides are trained by it too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from afictl.data import TrainBatch
from afictl.detectors import Detector
from afictl.errors import UserError
from afictl.presets import Preset
from afictl.run_folder import STATE, absolute_path
from afictl.training.detector_stages import build_detector_stage
from afictl.training.hardware import hardware_record
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
    resolve_interpolator,
)
from afictl.training.loop import TrainingOutcome, fit
from afictl.training.optimization import TrainableModule
from afictl.training.pseudo import Mixture, PseudoLabels
from afictl.training.run_writer import RunWriter
from afictl.training.splits import Splits, batch_source, in_label_order, load_splits, uses_masks
from afictl.training.sync_batch_norm import synchronize_batch_norms
from afictl.weights import read_checkpoint
from afictl.weights.layouts import to_afictl


def finetune(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    output: Path,
    start: InitialWeights | None = None,
    *,
    seed: int = 0,
    resume: bool = False,
    pseudo: PseudoLabels | None = None,
) -> TrainingOutcome:
    """Train a detector on ``data``, and on pseudo-labelled images where there are any, and write a run to ``output``.

    Returns its last metrics and its time.

    Raises:
        UserError: data, weights or output that do not fit.
    """
    start = start or InitialWeights()
    resumes = resume and (output / STATE).is_file()
    start.check(resumes)
    splits = _in_order_of(start, load_splits(data))
    masks = uses_masks(preset, splits)
    mixture = pseudo.load(splits[0], preset, masks, fabric.world_size) if pseudo else None
    preset, interpolator = resolve_interpolator(preset, start.interpolator, seed)
    detector = build_seeded_detector(preset, interpolator, len(splits[0].classes), seed)
    config = {
        "command": "finetune",
        "preset": preset.model_dump(mode="json"),
        "data": absolute_path(data),
        **start.describe(),
        "pseudo": pseudo.describe() if pseudo else None,
        "seed": seed,
        "hardware": hardware_record(fabric),
    }
    # Before the run's folder is made, so that weights that do not fit leave nothing behind.
    loaded = [] if resumes else load_initial_weights(detector, start)
    run = RunWriter(fabric, output, config, resume)
    for line in loaded:
        run.log(line)
    run.log(
        f"{preset.name} with {preset.interpolator.kind}: {len(splits[0])} training images, {len(splits[1])} held out"
    )
    run.log(f"index of the annotations: {sum(index.nbytes for index in splits) / 1e6:.1f} MB, shared by all workers")
    for reason, count in splits[0].left_out(masks).items():
        run.log(f"left out of training: {count} {reason}; see 'afictl data check'")
    if mixture:
        run.log(mixture.describe())
    return stage3(fabric, run, detector, splits, seed, masks, mixture)


def stage3(
    fabric: Fabric,
    run: RunWriter,
    detector: Detector,
    data: Splits,
    seed: int,
    masks: bool,
    mixture: Mixture | None = None,
) -> TrainingOutcome:
    """Train ``detector`` in place with the recipe ``train`` of its preset, on ``mixture`` instead of ``data`` alone."""
    preset, recipe = detector.preset, detector.preset.train
    synchronize_batch_norms(fabric, detector)
    trained = mixture.module(fabric, detector) if mixture else detector
    model = TrainableModule(fabric, trained, recipe, recipe.clip_norm)

    def step(batch: TrainBatch) -> Mapping[str, Tensor]:
        moved: Any = fabric.to_device((batch.images, batch.targets))
        losses: dict[str, Tensor] = model.module(*moved)
        model.backward(losses.values())
        model.optimizer_step()
        return losses

    stage = build_detector_stage(
        fabric,
        "stage3",
        run.folder,
        detector,
        data,
        modules={"detector": model},
        step=step,
        batches=mixture.batches(fabric, preset, seed)
        if mixture
        else batch_source(fabric, data[0], preset.input, recipe, preset.loader, seed, masks=masks),
    )
    return fit(fabric, run, recipe, stage, seed)


def _in_order_of(start: InitialWeights, splits: Splits) -> Splits:
    """The splits with labels as the detector that is started from numbers them, if it has their classes.

    Its class layers then go on from what they know, also where it has placeholders between the classes.
    """
    if not (start.weights and start.weights.exists()):  # a run that is resumed no longer needs them
        return splits
    classes = to_afictl(read_checkpoint(start.weights)).metadata.get("classes")
    if not isinstance(classes, list):
        return splits
    try:
        return in_label_order(splits, classes, str(start.weights))
    except UserError:  # other classes: its class layers are replaced
        return splits
