"""Stage 2: a detector of half-size images, with the interpolator of stage 1 ("AF extractor" of AFI-GAN, section 3).

Detection losses on half-size targets, plus the feature losses of stage 1 against the guide's features of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from afictl.data import Dataset, TrainBatch
from afictl.detectors import Detector, build_detector
from afictl.discriminator import PatchDiscriminator
from afictl.distributed import run_on_rank_zero, run_on_rank_zero_with_progress
from afictl.interpolators import Interpolator
from afictl.presets import Preset
from afictl.progress import ProgressCallback
from afictl.training.adversarial import PerLevel, Pyramid, discriminator_step, feature_losses
from afictl.training.adversarial_report import AdversarialReport
from afictl.training.compilation import compiled, stage2_parts
from afictl.training.detector_stages import build_detector_stage
from afictl.training.feature_distance import (
    MAX_HELD_OUT,
    FeatureDistance,
    distance_metrics,
    distance_table,
    measure_student_distance,
)
from afictl.training.guide_features import same_size_pairs
from afictl.training.loop import fit
from afictl.training.optimization import TrainableModule
from afictl.training.run_writer import RunWriter
from afictl.training.splits import Splits, batch_source, uses_masks
from afictl.training.stage import TRIAL_IMAGES, Metrics
from afictl.training.sync_batch_norm import synchronize_batch_norms
from afictl.training.sync_dropout import synchronize_dropouts

_SIZES_IN_PIXELS = ("anchor_sizes", "size_ranges")


class Extractor(nn.Module):
    """Detector whose forward also returns its pyramid, so that detection and feature losses share one pass."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> tuple[dict[str, Tensor], Pyramid]:
        """Detection losses and the pyramid of ``images``."""
        return self.detector.losses_and_pyramid(images, targets)


def half_size_preset(preset: Preset) -> Preset:
    """The guide's preset for images of half the size: settings in pixels are halved.

    All enlargements share the interpolator, also if those of the guide do not: a pre-trained interpolator is a single
    one, which can start every step of any neck.
    """
    sizes = {key: tuple(size / 2 for size in value) for key, value in preset.detector if key in _SIZES_IN_PIXELS}
    images = {
        "min_sizes": tuple(size // 2 for size in preset.input.min_sizes),
        "max_size": preset.input.max_size // 2,
        "test_size": preset.input.test_size // 2,
    }
    detector, config = preset.detector.model_copy(update=sizes), preset.input.model_copy(update=images)
    neck = preset.neck.model_copy(update={"interpolators": "shared"})
    return preset.model_copy(update={"detector": detector, "input": config, "neck": neck})


def build_student(guide: Detector, preset: Preset, interpolator: Interpolator) -> Detector:
    """A detector with the guide's weights and ``interpolator`` that works on half-size images."""
    student = build_detector(half_size_preset(preset), guide.num_classes, interpolator)
    prefix = student.interpolator_prefix
    weights = {name: value for name, value in guide.state_dict().items() if not name.startswith(prefix)}
    fresh = {name: value for name, value in student.state_dict().items() if name.startswith(prefix)}
    student.load_state_dict({**weights, **fresh})
    return student


def train_stage2(
    fabric: Fabric,
    run: RunWriter,
    guide: Detector,
    student: Detector,
    discriminator: PatchDiscriminator,
    data: Splits,
    seed: int,
) -> None:
    """Train ``student``, and with it its interpolator, in place.

    Writes the interpolator of the best student by box AP on half-size held-out images as
    ``interpolator.safetensors`` beside the usual files of a run. Every evaluation also reports by level the distance of
    the student's maps to the guide's, and the accuracy of the discriminator.
    """
    preset, recipe = student.preset, student.preset.stage2
    for module in (student, discriminator):
        synchronize_batch_norms(fabric, module)
    synchronize_dropouts(fabric, student)
    extractor = TrainableModule(fabric, Extractor(student), recipe, recipe.clip_norm)
    trainable_discriminator = TrainableModule(fabric, PerLevel(discriminator), recipe)

    def step(batch: TrainBatch) -> Mapping[str, Tensor]:
        full, half, targets = fabric.to_device((batch.images, batch.half_images, batch.half_targets))
        with torch.no_grad(), fabric.autocast():
            real = guide.pyramid(full, across_ranks=True)
        detection, features = extractor.module(half, targets)
        pairs = same_size_pairs(guide, features, real, full, half)
        loss_d = discriminator_step(trainable_discriminator, pairs)
        losses = {**detection, **feature_losses(trainable_discriminator.module, pairs, recipe)}
        extractor.backward(losses)
        extractor.optimizer_step()
        return {**losses, "loss_discriminator": loss_d}

    masks = uses_masks(preset, data)
    stage = build_detector_stage(
        fabric,
        "stage2",
        run.folder,
        student,
        data,
        modules={"student": extractor, "discriminator": trainable_discriminator},
        step=step,
        batches=batch_source(fabric, data.train, guide.input, recipe, preset.loader, seed, half_view=True, masks=masks),
    )

    def evaluate(progress: ProgressCallback) -> Metrics:
        features = run_on_rank_zero_with_progress(
            lambda share: _report(fabric, run, guide, student, discriminator, data.held_out, share),
            progress,
            fabric.global_rank,
            fabric.world_size,
        )
        return {**stage.evaluate(progress), **features}

    def try_evaluation() -> None:
        run_on_rank_zero(
            lambda: _measure(fabric, guide, student, discriminator, data.held_out, TRIAL_IMAGES),
            fabric.global_rank,
            fabric.world_size,
        )
        stage.try_evaluation()

    make_parts = partial(stage2_parts, guide, student, discriminator, recipe.batch_size // fabric.world_size)
    with compiled(fabric, [student, discriminator], make_parts, run.log):
        fit(fabric, run, recipe, replace(stage, evaluate=evaluate, try_evaluation=try_evaluation), seed)


def _report(
    fabric: Fabric,
    run: RunWriter,
    guide: Detector,
    student: Detector,
    discriminator: PatchDiscriminator,
    held_out: Dataset,
    progress: ProgressCallback,
) -> Metrics:
    """Log the distance of the student's held-out levels to the guide's, and the effect of the discriminator."""
    distance, adversarial = _measure(fabric, guide, student, discriminator, held_out, MAX_HELD_OUT, progress)
    run.log(distance_table(distance))
    run.log(adversarial.describe())
    return {**distance_metrics(distance), **adversarial.metrics}


def _measure(
    fabric: Fabric,
    guide: Detector,
    student: Detector,
    discriminator: PatchDiscriminator,
    held_out: Dataset,
    limit: int,
    progress: ProgressCallback = lambda count, total: None,
) -> tuple[FeatureDistance, AdversarialReport]:
    """Measure the first ``limit`` held-out images."""
    adversarial = AdversarialReport(discriminator, student.preset.stage2.adversarial_weight)
    with fabric.autocast():
        distance = measure_student_distance(
            guide,
            student,
            held_out,
            limit=limit,
            workers=guide.preset.loader.workers,
            progress=progress,
            on_pairs=adversarial.add,
        )
    return distance, adversarial
