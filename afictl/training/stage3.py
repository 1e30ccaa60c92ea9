"""Stage 3: ordinary training of a detector with any interpolator. Guides are trained by it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from afictl.backbones import load_pretrained
from afictl.data import TrainBatch
from afictl.detectors import Detector, build_detector
from afictl.errors import UserError
from afictl.interpolators import build_interpolator, interpolator_kinds
from afictl.presets import Preset, parse_preset
from afictl.training.hardware import describe, resolved
from afictl.training.loop import Metrics, Outcome, Stage, fit
from afictl.training.norms import synchronize_norms
from afictl.training.pseudo import Mixture, PseudoLabels
from afictl.training.run import BEST, INTERPOLATOR, LAST, STATE, Run
from afictl.training.schedule import build_optimizer
from afictl.training.step import (
    Splits,
    batch_source,
    box_ap,
    in_label_order,
    load_splits,
    measure,
    save_weights,
    update,
    uses_masks,
)
from afictl.weights import (
    LoadReport,
    load_backbone_weights,
    load_interpolator,
    load_tensors,
    read_checkpoint,
    read_weights,
)
from afictl.weights.layouts import to_ours


@dataclass(frozen=True)
class Start:
    """Where a detector's weights come from.

    ``interpolator`` is a kind, a run of ``pretrain`` or a file with an interpolator; ``weights`` a detector to start
    from; ``backbone_weights`` a local file instead of the ImageNet download. All optional. ``partial`` takes of
    ``weights`` what fits, whatever is missing.
    """

    interpolator: str | None = None
    weights: Path | None = None
    backbone_weights: Path | None = None
    partial: bool = False

    def describe(self) -> dict[str, str]:
        """The sources as a run records them, the same from whichever folder they are named."""
        kind = self.interpolator is None or self.interpolator in interpolator_kinds()
        return {
            "interpolator": (self.interpolator or "") if kind else resolved(self.interpolator),
            "weights": resolved(self.weights),
            "backbone_weights": resolved(self.backbone_weights),
        }


def finetune(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    output: Path,
    start: Start = Start(),
    *,
    seed: int = 0,
    resume: bool = False,
    pseudo: PseudoLabels | None = None,
) -> Outcome:
    """Train a detector on ``data``, and on pseudo-labelled images where there are any, and write a run to ``output``.

    Returns its last metrics and its time.

    Raises:
        UserError: data, weights or output that do not fit.
    """
    splits = _in_order_of(start, load_splits(data))
    masks = uses_masks(preset, splits)
    mixture = pseudo.load(splits[0], preset, masks) if pseudo else None
    preset, interpolator = resolve_interpolator(preset, start.interpolator, seed)
    detector = start_detector(preset, interpolator, len(splits[0].classes), seed)
    config = {
        "command": "finetune",
        "preset": preset.model_dump(mode="json"),
        "data": resolved(data),
        **start.describe(),
        "pseudo": pseudo.describe() if pseudo else None,
        "seed": seed,
        "hardware": describe(fabric),
    }
    # Before the run's folder is made, so that weights that do not fit leave nothing behind.
    resumes = resume and (output / STATE).is_file()
    loaded = [] if resumes else load_start(detector, start)
    run = Run(fabric, output, config, resume)
    for line in loaded:
        run.say(line)
    run.say(
        f"{preset.name} with {preset.interpolator.kind}: {len(splits[0])} training images, {len(splits[1])} held out"
    )
    run.say(f"index of the annotations: {sum(index.nbytes for index in splits) / 1e6:.1f} MB, shared by all workers")
    for reason, count in splits[0].left_out(masks).items():
        run.say(f"left out of training: {count} {reason}; see 'afictl data check'")
    if mixture:
        run.say(mixture.describe())
    return stage3(fabric, run, detector, splits, seed, masks, mixture)


def stage3(
    fabric: Fabric,
    run: Run,
    detector: Detector,
    data: Splits,
    seed: int,
    masks: bool,
    mixture: Mixture | None = None,
) -> Outcome:
    """Train ``detector`` in place with the recipe ``train`` of its preset, on ``mixture`` instead of ``data`` alone."""
    preset, recipe = detector.preset, detector.preset.train
    synchronize_norms(fabric, detector)
    trained = mixture.module(fabric, detector) if mixture else detector
    model, optimizer = fabric.setup(trained, build_optimizer(detector, recipe))

    def step(batch: TrainBatch) -> Mapping[str, Tensor]:
        moved: Any = fabric.to_device((batch.images, batch.targets))
        losses: dict[str, Tensor] = model(*moved)
        update(fabric, model, optimizer, losses, recipe)
        return losses

    def export(path: Path, done: int, metrics: Metrics) -> None:
        save_weights(path, detector, data[0], done, metrics)

    stage = Stage(
        name="stage3",
        modules={"detector": model},
        optimizers={"detector": optimizer},
        step=step,
        batches=mixture.batches(fabric, preset, seed)
        if mixture
        else batch_source(fabric, data[0], preset.input, recipe, preset.loader, seed, masks=masks),
        evaluate=measure(fabric, detector, data, run.folder),
        judge=box_ap,
        export=export,
    )
    return fit(fabric, run, recipe, stage, seed)


def resolve_interpolator(preset: Preset, source: str | None, seed: int) -> tuple[Preset, nn.Module]:
    """The interpolator that ``--interpolator`` names, and the preset that says so.

    Raises:
        UserError: neither a kind nor a run or file, or of another width than the neck.
    """
    torch.manual_seed(seed)
    channels = preset.neck.channels
    if source is None or source in interpolator_kinds():
        kind = source or preset.interpolator.kind
        options = preset.interpolator.options if kind == preset.interpolator.kind else {}
        module = build_interpolator(kind, channels, **options)
    else:
        module = load_interpolator(_interpolator_file(source))
        kind, options = module.kind, module.options
        if module.channels != channels:
            raise UserError(
                f"{source}: the interpolator has {module.channels} channels, the neck of {preset.name} {channels};"
                f" set neck.channels={module.channels} or pre-train with this preset"
            )
    return preset.with_interpolator(kind, options), module


def start_detector(preset: Preset, interpolator: nn.Module, num_classes: int, seed: int) -> Detector:
    """A detector whose random start depends on the seed alone, not on which interpolator it holds."""
    torch.manual_seed(seed)
    return build_detector(preset, num_classes, interpolator)


def _in_order_of(start: Start, splits: Splits) -> Splits:
    """The splits with labels as the detector that is started from numbers them, if it has their classes.

    Its class layers then go on from what they know, also where it has placeholders between the classes.
    """
    if not (start.weights and start.weights.exists()):  # a run that is resumed no longer needs them
        return splits
    classes = to_ours(read_checkpoint(start.weights)).metadata.get("classes")
    if not isinstance(classes, list):
        return splits
    try:
        return in_label_order(splits, classes, str(start.weights))
    except UserError:  # other classes: its class layers are replaced
        return splits


def load_start(detector: Detector, start: Start) -> list[str]:
    """Load what ``start`` names into a fresh detector; returns a line for each load.

    Raises:
        UserError: weights that do not fit, or ImageNet weights that cannot be had.
    """
    if start.weights and start.backbone_weights:
        raise UserError("--backbone-weights beside --weights: the detector already brings its backbone; give one")
    if start.weights:
        checkpoint = read_weights(detector, start.weights)
        tensors = checkpoint.tensors
        if start.interpolator:  # the one that was asked for, not the one of the checkpoint
            prefix = detector.interpolator_prefix
            tensors = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
        report = load_tensors(detector, tensors)
        _check(detector, report, start, checkpoint.metadata)
        return [f"{start.weights}: {report}", *_replaced(detector, report, start)]
    if start.backbone_weights:
        report = load_backbone_weights(detector.backbone, start.backbone_weights, detector.input)
        return [f"{start.backbone_weights}: {report}", _origin(detector, start)]
    if detector.preset.backbone.pretrained:
        load_pretrained(detector.backbone)
        return [f"ImageNet weights loaded into {detector.preset.backbone.name}", _origin(detector, start)]
    return [_origin(detector, start)]


def _origin(detector: Detector, start: Start) -> str:
    """Where the interpolator comes from when ``start.weights`` do not bring it."""
    interpolator = detector.neck.interpolator
    if start.interpolator and start.interpolator not in interpolator_kinds():
        return f"interpolator: {start.interpolator} (trained; {len(interpolator.state_dict())} tensors loaded)"
    learned = any(True for _ in interpolator.parameters())
    return f"interpolator: {'fresh ' if learned else ''}{interpolator.kind}"


def _replaced(detector: Detector, report: LoadReport, start: Start) -> list[str]:
    """What did not come from the weights that were loaded, in words."""
    lines = []
    if any(name.startswith(detector.interpolator_prefix) for name in report.missing):
        lines.append(_origin(detector, start))
    other = [name for name in report.mismatched if name.startswith(detector.class_layers)]
    if other:
        lines.append(f"layers of other classes start anew for {detector.num_classes}: {', '.join(other)}")
    return lines


def _check(detector: Detector, report: LoadReport, start: Start, metadata: Mapping[str, Any]) -> None:
    """Only a whole interpolator, and class-dependent layers in their shape, may differ from what is started from."""
    if start.partial and report.matched:
        return
    wrong = [name for name in report.mismatched if not name.startswith(detector.class_layers)]
    prefix = detector.interpolator_prefix
    whole = not any(name.startswith(prefix) for name in report.matched)
    wrong += [n for n in (*report.missing, *report.unexpected) if not (whole and n.startswith(prefix))]
    if wrong or not report.matched:
        advice = "; --partial takes what fits" if report.matched else ""
        first = f"; first: {wrong[0]}" if wrong else ""
        model = f"is a checkpoint of another model{_named(detector.preset, metadata)}"
        raise UserError(f"{start.weights}: {model} ({report}{first}){advice}")


def _named(preset: Preset, metadata: Mapping[str, Any]) -> str:
    """The names of both presets where the detectors are of different kinds."""
    stored = metadata.get("preset")
    theirs = parse_preset(stored, source="the checkpoint") if isinstance(stored, Mapping) else preset
    return f": it holds {theirs.name}, this is {preset.name}" if theirs.detector.kind != preset.detector.kind else ""


def _interpolator_file(source: str) -> Path:
    path = Path(source)
    if path.is_dir() and (path / INTERPOLATOR).is_file():
        return path / INTERPOLATOR
    if not path.is_file() and not any((path / name).is_file() for name in (BEST, LAST)):
        kinds = ", ".join(interpolator_kinds())
        raise UserError(f"--interpolator {source}: neither a kind ({kinds}) nor a run of pretrain nor a file")
    return path
