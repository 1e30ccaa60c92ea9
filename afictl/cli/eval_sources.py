"""Sources of ``afictl eval``, detectors or files of predictions: checks, names, and the evaluation of each."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from afictl.cli.runs import folder_of, name_of
from afictl.errors import UserError
from afictl.regular_files import open_regular

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from rich.console import Console

    from afictl.data import Dataset
    from afictl.evaluation import Evaluation
    from afictl.evaluation.views import Views
    from afictl.weights import LoadedDetector


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation, the same for every source."""

    dataset: Dataset
    split: str
    limit: int | None
    evaluator: str
    batch_size: int
    views: Views | None
    overrides: list[str]
    """Preset keys changed with ``--set``."""
    partial: bool
    averaged: bool | None
    """As in ``read_checkpoint``."""
    curves: bool
    confusion_score: float | None
    """Minimum score of detections in the confusion matrix; None writes no matrix."""
    submission_name: str | None
    """Algorithm name in submission files; None: the name of the source."""

    @property
    def is_submission(self) -> bool:
        """Whether the dataset has no ground truth, so that there are no metrics."""
        return not self.dataset.has_ground_truth

    @property
    def image_ids(self) -> list[int] | None:
        """Ids of the first ``limit`` images; None for all images."""
        return self.dataset.image_ids[: self.limit] if self.limit else None


def require_sources(weights: list[Path] | None, predictions: list[Path] | None) -> list[Path]:
    """Return the detectors or the files of predictions, after a check of all of them.

    Raises:
        UserError: both or neither are given, one does not exist, or a folder has no detector.
    """
    from afictl.weights.checkpoint import find_checkpoint

    if bool(weights) == bool(predictions):
        raise UserError("pass either --weights RUN or --predictions FILE")
    for source in weights or predictions or ():
        folder_of(source)
    for source in weights or ():
        find_checkpoint(source)
    for source in predictions or ():
        if source.is_dir():
            raise UserError(f"--predictions {source}: is a folder; name the JSON file in it")
        if _is_zip(source):
            raise UserError(f"--predictions {source}: is a zip file; unpack it and name the JSON file in it")
    return weights or predictions or []


def _is_zip(source: Path) -> bool:
    try:
        with open_regular(source) as file:
            return zipfile.is_zipfile(file)
    except OSError as error:
        raise UserError(f"--predictions {source}: {error.strerror}") from None


def named_sources(sources: list[Path]) -> dict[str, Path]:
    """Sources by name; sources with equal names are named by the parts of their paths that differ.

    Raises:
        UserError: a source is given twice.
    """
    names = [name_of(source) for source in sources]
    paths = [source.absolute() for source in sources]
    ambiguous = [path for name, path in zip(names, paths, strict=True) if names.count(name) > 1]
    common = Path(commonpath(ambiguous)) if ambiguous else Path()
    base = common.parent if common in ambiguous else common
    named = {
        str(path.relative_to(base)) if path in ambiguous else name: source
        for name, path, source in zip(names, paths, sources, strict=True)
    }
    if len(named) < len(sources):
        raise UserError("the same source is given twice")
    return named


def require_classes(sources: Mapping[str, Path], dataset: Dataset) -> None:
    """Check the classes of several detectors before the first is evaluated."""
    from afictl.evaluation.category_matching import match_categories
    from afictl.weights import detector_classes

    for source in sources.values():
        match_categories(detector_classes(source), dataset, owner=str(source))


def evaluate_source(
    source: Path, file: Path, settings: EvaluationSettings, fabric: Fabric | None, console: Console
) -> Evaluation | None:
    """Detect with ``source`` if it is a detector, and score the predictions in ``file``; None for a submission."""
    from afictl.distributed import run_on_rank_zero
    from afictl.evaluation import score_predictions

    masks = _detect(source, file, settings, fabric, console) if fabric else None
    if settings.is_submission:
        return None

    def score() -> Evaluation:
        ids, evaluator = settings.image_ids, settings.evaluator
        return score_predictions(file, settings.dataset, image_ids=ids, evaluator=evaluator, masks=masks)

    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    return run_on_rank_zero(score, rank, world_size)


def _detect(source: Path, file: Path, settings: EvaluationSettings, fabric: Fabric, console: Console) -> bool:
    """Write the detections of a detector to ``file``; return whether they have masks."""
    from afictl.distributed import Runtime
    from afictl.evaluation import detect
    from afictl.progress import show_progress
    from afictl.training.compilation import Part, compiled, detector_parts, trial_images

    def log(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    loaded = load_changed(source, settings.overrides, settings.partial, settings.averaged)
    log(f"{source}: {loaded.report}")
    detector = loaded.detector.eval()
    fabric.to_device(detector)

    def make_parts() -> list[Part]:
        images = trial_images(detector, settings.batch_size, detector.input.test_size)
        return detector_parts(detector, lambda: detector.pyramid(images), trains=False)

    with compiled(fabric, [detector], make_parts, log), show_progress(console, "images") as progress:
        summary = detect(
            detector,
            settings.dataset,
            file,
            Runtime.of_fabric(fabric, loaded.preset.loader.workers),
            classes=loaded.classes,
            limit=settings.limit,
            batch_size=settings.batch_size,
            views=settings.views,
            progress=progress,
        )
    if summary.note:
        log(summary.note)
    return summary.has_masks


def load_changed(weights: Path, overrides: list[str], partial: bool, averaged: bool | None) -> LoadedDetector:
    """Load a detector; with preset keys changed by ``--set``, rebuild it and load its weights again.

    Args:
        weights: run folder or checkpoint.
        overrides: preset keys changed with ``--set``.
        partial: as in ``load_detector``.
        averaged: as in ``read_checkpoint``.

    Raises:
        UserError: the detector cannot be loaded, or its weights do not fit the changed one.
    """
    from afictl.detectors import build_detector
    from afictl.presets import parse_preset
    from afictl.weights import LoadedDetector, load_detector
    from afictl.weights.compatibility import setting_differences
    from afictl.weights.loading import load_tensors

    loaded = load_detector(weights, partial=partial, averaged=averaged)
    if not overrides:
        return loaded
    preset = parse_preset(loaded.preset.model_dump(mode="json"), overrides, source=str(weights))
    detector = build_detector(preset, num_classes=len(loaded.classes))
    report = load_tensors(detector, loaded.detector.state_dict())
    if not report.complete:
        raise UserError(
            f"--set {' '.join(overrides)}: the weights of {weights} do not fit the changed detector ({report}); "
            "change only keys that leave the layers as they are, such as input.test_size"
        )
    report = replace(loaded.report, differences=setting_differences(preset, loaded.preset))
    return LoadedDetector(detector, preset, loaded.classes, loaded.metadata, report)
