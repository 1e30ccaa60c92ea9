"""Stage 3: ordinary training of a detector with any interpolator, guides included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric
from torch import Tensor, nn

from afictl.data import TrainBatch
from afictl.data.image_listing import orientation_note
from afictl.data.layouts import describe_data
from afictl.data.loader import require_even_share
from afictl.detectors import Detector
from afictl.errors import UserError
from afictl.evaluation.detection_limit import objects_note
from afictl.folder_lock import locked_folder
from afictl.interpolators import Interpolator
from afictl.presets import Preset, with_former_values
from afictl.run_folder import STATE, absolute_path
from afictl.training.accumulation import accumulation_notes, backward_in_micro_batches
from afictl.training.compilation import Part, compiled, detector_parts, trial_images
from afictl.training.detector_stages import build_detector_stage
from afictl.training.hardware import hardware_record
from afictl.training.image_check import ImageCheck
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
    recorded_interpolator,
    resolve_interpolator,
)
from afictl.training.loop import TrainingOutcome, fit
from afictl.training.memory import require_batch_memory
from afictl.training.metric_loggers import DEFAULT_LOGGERS
from afictl.training.mixed_data import MixedData
from afictl.training.optimization import TrainableModule, batch_notes
from afictl.training.process_count import process_dependence
from afictl.training.pseudo import PseudoLabels
from afictl.training.run_inputs import (
    RecordedInputs,
    annotation_input,
    annotation_inputs,
    image_inputs,
    inputs_record,
    recorded_inputs,
    require_unchanged_meanwhile,
)
from afictl.training.run_writer import RunWriter
from afictl.training.seeds import Seeds
from afictl.training.splits import (
    Splits,
    batch_source,
    in_label_order,
    load_splits,
    require_split_images,
    uses_masks,
)
from afictl.training.stage import Metrics
from afictl.training.sync_batch_norm import synchronize_batch_norms
from afictl.training.sync_dropout import synchronize_dropouts
from afictl.training.weight_average import build_weight_average
from afictl.weights import read_checkpoint
from afictl.weights.layouts import to_afictl


class FinetuneOutcome(NamedTuple):
    """Result of ``finetune``."""

    metrics: Metrics
    """Of the last evaluation."""
    seconds: float
    """Duration of all steps."""
    splits: Splits
    """Images of training and evaluation, with the annotations as they were read at the start."""
    image_change: str
    """Which images have changed since the start, as part of a message; empty for none."""


def finetune(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    output: Path,
    initial: InitialWeights | None = None,
    *,
    seed: int | Seeds = 0,
    resume: bool = False,
    pseudo: PseudoLabels | None = None,
    inputs: RecordedInputs | None = None,
    loggers: Sequence[str] = DEFAULT_LOGGERS,
) -> FinetuneOutcome:
    """Train a detector on a dataset, perhaps with pseudo-labelled images, and write a run.

    Images that change meanwhile are a warning in the log. The saved state of a run with ``inputs`` is then removed, as
    the runs of a comparison have the same images.

    Which label is which class is recorded when the run begins: the order of the classes of ``initial.weights`` if they
    have the same names, else the order of the category ids. A resumed run has the recorded order, by name.

    Args:
        fabric: the launched Fabric.
        preset: detector and recipe ``train``.
        data: folder of a dataset with the splits train and val.
        output: folder of the run.
        initial: sources of the initial weights; None for the preset's.
        seed: of all random streams, or the seed of each.
        resume: continue the run in ``output``, if there is one.
        pseudo: images to train on beside those of ``data``.
        inputs: class order and fingerprints that a new run must have, as those of a comparison.
        loggers: names of what the metrics are logged to, of ``LOGGER_NAMES``.

    Raises:
        UserError: data, weights or output that do not fit, or whose content has changed since the run began, or an
            output that another process writes to.
    """
    initial, seeds = initial or InitialWeights(), Seeds.of(seed)
    with locked_folder(output, fabric.global_rank, fabric.world_size):
        return _finetune(fabric, preset, data, output, initial, seeds, resume, pseudo, inputs, loggers)


def _finetune(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    output: Path,
    initial: InitialWeights,
    seeds: Seeds,
    resume: bool,
    pseudo: PseudoLabels | None,
    inputs: RecordedInputs | None,
    loggers: Sequence[str],
) -> FinetuneOutcome:
    resumes = resume and (output / STATE).is_file()
    recorded = recorded_inputs(fabric, output) if resume else None
    preset, former_note = with_former_values(preset, recorded.preset, "the run") if recorded else (preset, "")
    require_batch_memory(preset, "train", fabric.world_size, fabric.device)
    initial.check_paths(resumes)
    splits = load_splits(data)
    weights = initial.input_files()
    files = [*annotation_inputs(splits), *weights]
    splits = in_run_order(splits, recorded or inputs, initial.weights)
    masks = uses_masks(preset, splits)
    mixed = pseudo.load(splits.train, preset, masks, fabric.world_size) if pseudo else None
    require_split_images(fabric, splits, masks)
    files += [annotation_input("pseudo", mixed.pseudo)] if mixed else []
    files += image_inputs(fabric, splits, mixed.pseudo if mixed else None)
    if inputs:
        inputs.require_unchanged(files)
    preset, interpolator = _interpolator_of_run(preset, initial, recorded if resumes else None, seeds.weights)
    detector = build_seeded_detector(preset, interpolator, len(splits.train.classes), seeds.weights)
    config = _config(fabric, preset, data, initial, pseudo, seeds) | inputs_record(splits.train.classes, files)
    # Before the run folder is created: weights that do not fit must not leave one.
    lines = [] if resumes else load_initial_weights(detector, initial, splits.train.classes)
    if not resumes:
        require_unchanged_meanwhile(weights, initial.input_files())
    dependence = process_dependence(preset)
    run = RunWriter(fabric, output, config, resume, dependence, loggers)
    if dependence and fabric.world_size > 1:
        run.log(f"note: results depend on the number of processes, as {dependence}")
    if recorded:
        recorded.require_unchanged(files)
    notes = [*filter(None, [former_note, recorded.note if recorded else ""]), *accumulation_notes(detector, dependence)]
    counts = {"train": len(splits.train), "val": len(splits.held_out)}
    for line in (*notes, *lines, describe_data(data, counts), *_description(preset, splits, masks, mixed)):
        run.log(line)
    pseudo_images = mixed.pseudo if mixed else None
    with ImageCheck(fabric, run, files, splits, pseudo_images, discards_state=inputs is not None) as check:
        outcome = train_stage3(fabric, run, detector, splits, seeds, masks, mixed)
    return FinetuneOutcome(outcome.metrics, outcome.seconds, splits, fabric.broadcast(check.change))


def _interpolator_of_run(
    preset: Preset, initial: InitialWeights, recorded: RecordedInputs | None, seed: int
) -> tuple[Preset, Interpolator]:
    """``resolve_interpolator``; a trained one of a run with a saved state is rebuilt without its file."""
    if recorded and initial.is_trained_interpolator:
        return recorded_interpolator(preset, recorded)
    return resolve_interpolator(preset, initial.interpolator, seed, initial.averaged_interpolator)


def _config(
    fabric: Fabric, preset: Preset, data: Path, initial: InitialWeights, pseudo: PseudoLabels | None, seeds: Seeds
) -> dict[str, object]:
    """Settings of the run in ``config.yaml``."""
    return {
        "command": "finetune",
        "preset": preset.model_dump(mode="json"),
        "data": absolute_path(data),
        **initial.as_config(),
        "pseudo": pseudo.as_config() if pseudo else None,
        **seeds.as_config(),
        "hardware": hardware_record(fabric),
    }


def train_stage3(
    fabric: Fabric,
    run: RunWriter,
    detector: Detector,
    splits: Splits,
    seeds: Seeds,
    masks: bool,
    mixed: MixedData | None = None,
) -> TrainingOutcome:
    """Train ``detector`` in place with the recipe ``train`` of its preset, on ``mixed`` if given."""
    preset, recipe = detector.preset, detector.preset.train
    require_even_share(recipe.micro_batch_size, fabric.world_size)
    synchronize_batch_norms(fabric, detector)
    synchronize_dropouts(fabric, detector, recipe.accumulate)
    module = mixed.training_module(fabric, detector, recipe.accumulate) if mixed else detector
    trainable = TrainableModule(fabric, module, recipe, recipe.clip_norm, _interpolator_rates(detector))
    average = build_weight_average(detector, recipe.ema_decay) if recipe.ema_decay else None

    def step(batch: TrainBatch) -> Mapping[str, Tensor]:
        images, targets = fabric.to_device((batch.images, batch.targets))
        groups = mixed.shares(fabric.world_size) if mixed else [len(images)]
        losses = backward_in_micro_batches(fabric, trainable, images, targets, recipe.accumulate, groups)
        trainable.optimizer_step()
        if average is not None:
            average.update_parameters(detector)
        return losses

    batches = (
        mixed.batches(fabric, preset, seeds)
        if mixed
        else batch_source(
            fabric,
            splits.train,
            preset.input,
            recipe,
            preset.loader,
            seeds.order,
            augmentation_seed=seeds.augmentation,
            masks=masks,
        )
    )
    modules = {"detector": trainable}
    stage = build_detector_stage(
        fabric,
        "stage3",
        run.folder,
        detector,
        splits,
        modules=modules,
        step=step,
        batches=batches,
        average=average,
        patience=recipe.patience,
    )
    shares = fabric.world_size * recipe.accumulate

    def make_parts() -> list[Part]:
        count = mixed.shares(shares)[0] if mixed else recipe.batch_size // shares
        images = trial_images(detector, count, max(preset.input.min_sizes))
        return detector_parts(detector, lambda: detector.pyramid(images), trains=True)

    with compiled(fabric, [detector], make_parts, run.log):
        return fit(fabric, run, recipe, stage, seeds.sampling)


def _interpolator_rates(detector: Detector) -> dict[nn.Parameter, float]:
    """The factor of the learning rate of each parameter of the interpolator, which a factor of 0 freezes."""
    factor = detector.preset.train.interpolator_lr
    if not factor:
        detector.neck.interpolator.requires_grad_(False)
    return {p: factor for p in detector.neck.interpolator.parameters() if p.requires_grad}


def in_run_order(splits: Splits, recorded: RecordedInputs | None, weights: Path | None) -> Splits:
    """The splits with labels in the recorded order, by name; for a new run in that of the checkpoint."""
    if not (recorded and recorded.classes):
        return in_checkpoint_order(splits, weights)
    try:
        return in_label_order(splits, recorded.classes, str(recorded.source))
    except UserError as error:
        raise UserError(f"{error}; restore the names, or start anew with another --output") from None


def in_checkpoint_order(splits: Splits, weights: Path | None) -> Splits:
    """The splits with labels in the order of the checkpoint's classes, if it has the same classes.

    Class layers then load completely, even where the checkpoint has placeholders between the classes.
    """
    if not (weights and weights.exists()):  # a resumed run does not read them
        return splits
    classes = to_afictl(read_checkpoint(weights)).metadata.get("classes")
    if not isinstance(classes, list):
        return splits
    try:
        return in_label_order(splits, classes, str(weights))
    except UserError:  # other classes: the class layers are replaced
        return splits


def _description(preset: Preset, splits: Splits, masks: bool, mixed: MixedData | None) -> list[str]:
    """Log lines on the detector and its data."""
    num_train, num_held_out = len(splits.train), len(splits.held_out)
    megabytes = sum(split.nbytes for split in splits) / 1e6
    return [
        f"{preset.name} with {preset.interpolator.kind}: {num_train} training images, {num_held_out} held out",
        f"index of the annotations: {megabytes:.1f} MB, shared by all workers",
        *(
            f"left out of training: {count} {reason}; see 'afictl data check'"
            for reason, count in splits.train.left_out(masks).items()
        ),
        *filter(None, map(orientation_note, splits)),
        *filter(None, [objects_note(splits.held_out, preset.detector.max_detections)]),
        *([mixed.description] if mixed else []),
        *batch_notes(preset),
        *(["the average of the weights is evaluated and saved"] if preset.train.ema_decay else []),
    ]
