"""Stage 1: the interpolator against the discriminator on the features of a frozen guide (AFI-GAN, section 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from afictl.data import Dataset, TrainBatch
from afictl.detectors import Detector
from afictl.discriminator import PatchDiscriminator
from afictl.distributed import run_on_rank_zero, run_on_rank_zero_with_progress
from afictl.files import write_text
from afictl.interpolators import Interpolator
from afictl.presets import InterpolatorRecipe, Preset
from afictl.progress import ProgressCallback
from afictl.run_folder import BEST, FEATURE_DISTANCE, INTERPOLATOR
from afictl.tensor_files import save_tensors
from afictl.training.adversarial import PerLevel, PyramidInterpolator, discriminator_step, feature_losses
from afictl.training.adversarial_report import AdversarialReport
from afictl.training.compilation import compiled, stage1_parts
from afictl.training.feature_distance import (
    MAX_HELD_OUT,
    FeatureDistance,
    describe_distance,
    distance_metrics,
    measure_feature_distance,
)
from afictl.training.guide_features import enlarged_pairs, guide_maps
from afictl.training.loop import fit
from afictl.training.optimization import TrainableModule
from afictl.training.run_writer import RunWriter
from afictl.training.splits import Splits, batch_source
from afictl.training.stage import TRIAL_IMAGES, Metrics, Stage
from afictl.training.sync_batch_norm import synchronize_batch_norms


def train_stage1(
    fabric: Fabric,
    run: RunWriter,
    guide: Detector,
    preset: Preset,
    interpolator: Interpolator,
    discriminator: PatchDiscriminator,
    data: Splits,
    seed: int,
) -> None:
    """Train ``interpolator`` and ``discriminator`` in place.

    Writes ``feature_distance.json`` beside the usual files of a run; best is the smallest L1 on held-out images.
    """
    recipe = preset.stage1
    synchronize_batch_norms(fabric, discriminator)
    generator = TrainableModule(fabric, PyramidInterpolator(interpolator), recipe, recipe.clip_norm)
    trainable_discriminator = TrainableModule(fabric, PerLevel(discriminator), recipe)

    def evaluate(progress: ProgressCallback) -> Metrics:
        return run_on_rank_zero_with_progress(
            lambda share: _report(fabric, run, guide, recipe, interpolator, discriminator, data.held_out, share),
            progress,
            fabric.global_rank,
            fabric.world_size,
        )

    def export(path: Path, description: Mapping[str, object]) -> None:
        save_tensors(path, interpolator.state_dict(), interpolator.description)
        if path.name == BEST:
            save_tensors(path.with_name(INTERPOLATOR), interpolator.state_dict(), interpolator.description)

    def try_evaluation() -> None:
        run_on_rank_zero(
            lambda: _measure(fabric, guide, recipe, interpolator, discriminator, data.held_out, TRIAL_IMAGES),
            fabric.global_rank,
            fabric.world_size,
        )

    stage = Stage(
        name="stage1",
        modules={"generator": generator, "discriminator": trainable_discriminator},
        step=partial(stage1_step, fabric, guide, recipe, generator, trainable_discriminator),
        batches=batch_source(fabric, data.train, guide.input, recipe, preset.loader, seed, half_view=True),
        evaluate=evaluate,
        score=lambda metrics: -float(metrics[f"l1/{interpolator.kind}"] or 0),
        export=export,
        try_evaluation=try_evaluation,
        logged=(f"l1/{interpolator.kind}", f"cosine/{interpolator.kind}"),  # others are in the table above
    )
    count = recipe.batch_size // fabric.world_size
    make_parts = partial(stage1_parts, guide, interpolator, discriminator, recipe, count)
    with compiled(fabric, [interpolator, discriminator], make_parts, run.log):
        fit(fabric, run, recipe, stage, seed)


def stage1_step(
    fabric: Fabric,
    guide: Detector,
    recipe: InterpolatorRecipe,
    generator: TrainableModule,
    discriminator: TrainableModule,
    batch: TrainBatch,
) -> Mapping[str, Tensor]:
    """One update of the discriminator and one of the interpolator; returns the losses of both, scalars.

    Args:
        fabric: the launched Fabric.
        guide: frozen, in eval mode.
        recipe: the features to enlarge, and the weight of the adversarial term.
        generator: a ``PyramidInterpolator``.
        discriminator: a ``PatchDiscriminator`` in ``PerLevel``.
        batch: with half-size views.
    """
    full, half = fabric.to_device((batch.images, batch.half_images))
    with torch.no_grad(), fabric.autocast():
        real = guide_maps(guide, full, recipe.features, across_ranks=True).maps
        coarse, fine = guide_maps(guide, half, recipe.features, across_ranks=True)
    pairs = enlarged_pairs(guide, generator.module(coarse, fine), real, full, half)
    loss_d = discriminator_step(discriminator, pairs)
    losses = feature_losses(discriminator.module, pairs, recipe)
    generator.backward(losses)
    generator.optimizer_step()
    return {**losses, "loss_discriminator": loss_d}


def _report(
    fabric: Fabric,
    run: RunWriter,
    guide: Detector,
    recipe: InterpolatorRecipe,
    interpolator: Interpolator,
    discriminator: PatchDiscriminator,
    held_out: Dataset,
    progress: ProgressCallback,
) -> Metrics:
    """Write and log the distance of the enlarged held-out features, and the effect of the discriminator."""
    distance, adversarial = _measure(
        fabric, guide, recipe, interpolator, discriminator, held_out, MAX_HELD_OUT, progress
    )
    write_text(run.folder / FEATURE_DISTANCE, json.dumps(distance, indent=2))
    run.log(describe_distance(distance, interpolator.kind))
    run.log(adversarial.describe())
    return {**distance_metrics(distance), **adversarial.metrics}


def _measure(
    fabric: Fabric,
    guide: Detector,
    recipe: InterpolatorRecipe,
    interpolator: Interpolator,
    discriminator: PatchDiscriminator,
    held_out: Dataset,
    limit: int,
    progress: ProgressCallback = lambda count, total: None,
) -> tuple[FeatureDistance, AdversarialReport]:
    """Measure the first ``limit`` held-out images."""
    adversarial = AdversarialReport(discriminator, recipe.adversarial_weight)
    with fabric.autocast():
        distance = measure_feature_distance(
            guide,
            interpolator,
            held_out,
            features=recipe.features,
            limit=limit,
            workers=guide.preset.loader.workers,
            progress=progress,
            on_pairs=adversarial.add,
        )
    return distance, adversarial
