"""What ``afictl eval`` does with each source: detect or read, score, and write the results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from afictl.cli.eval_files import PREDICTIONS, remove_earlier, write_confusion, write_curves, write_metrics
from afictl.cli.runs import slugify
from afictl.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from rich.console import Console

    from afictl.data import Dataset
    from afictl.evaluation import Evaluation
    from afictl.evaluation.tta import TestTimeAugmentation
    from afictl.weights import LoadedDetector


@dataclass(frozen=True)
class Job:
    """What is asked of every source alike."""

    sources: list[Path]
    """All of them; none is removed as a result of an earlier evaluation."""
    index: Dataset
    split: str
    limit: int | None
    evaluator: str
    batch_size: int
    tta: TestTimeAugmentation | None
    settings: list[str]
    partial: bool
    curves: bool
    confusion_score: float | None
    """None draws no confusion."""

    @property
    def is_submission(self) -> bool:
        """Whether the images have no objects, so that there is no metric."""
        return not self.index.has_ground_truth

    @property
    def image_ids(self) -> list[int] | None:
        """Those of a part of the images; None means all."""
        return self.index.image_ids[: self.limit] if self.limit else None


def find(job: Job, source: Path, folder: Path, fabric: Fabric | None, console: Console) -> Evaluation | None:
    """Return the metrics of one source, None for a submission; results of a detector are written to ``folder``."""
    from afictl.distributed import run_on_rank_zero
    from afictl.evaluation import score_predictions

    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    file, masks = (folder / PREDICTIONS, _detect(job, source, folder, fabric, console)) if fabric else (source, None)
    if job.is_submission:
        return None

    def score() -> Evaluation:
        annotations = job.index.annotation_file
        return score_predictions(file, annotations, image_ids=job.image_ids, evaluator=job.evaluator, masks=masks)

    return run_on_rank_zero(score, rank, world_size)


def _detect(job: Job, source: Path, folder: Path, fabric: Fabric, console: Console) -> bool:
    """Write the detections on the images, of which every rank takes a share; return whether they have masks."""
    from afictl.distributed import Runtime
    from afictl.evaluation import detect
    from afictl.progress import show_progress

    loaded = _load(source, job.settings, job.partial)
    console.print(f"{source}: {loaded.report}", markup=False, highlight=False)
    with show_progress(console, "images") as progress:
        return detect(
            fabric.to_device(loaded.detector),
            job.index,
            folder / PREDICTIONS,
            Runtime.of_fabric(fabric, loaded.preset.loader.workers),
            classes=loaded.classes,
            limit=job.limit,
            batch_size=job.batch_size,
            tta=job.tta,
            progress=progress,
        )


def _load(weights: Path, settings: list[str], partial: bool) -> LoadedDetector:
    """The detector, rebuilt with changed preset keys where ``--set`` asks for some."""
    from afictl.detectors import build_detector
    from afictl.presets import parse_preset
    from afictl.weights import LoadedDetector, load_detector
    from afictl.weights.loading import load_tensors

    loaded = load_detector(weights, partial=partial)
    if not settings:
        return loaded
    preset = parse_preset(loaded.preset.model_dump(mode="json"), settings, source=str(weights))
    detector = build_detector(preset, num_classes=len(loaded.classes))
    report = load_tensors(detector, loaded.detector.state_dict())
    if not report.complete:
        raise UserError(
            f"--set {' '.join(settings)}: the weights of {weights} do not fit any more ({report}); "
            "change only keys that leave the layers as they are, such as input.test_size"
        )
    return LoadedDetector(detector, preset, loaded.classes, loaded.metadata, loaded.report)


def submit(job: Job, file: Path, folder: Path, name: str, console: Console) -> None:
    """Write the zip files for COCO's server of the results in ``file``."""
    from afictl.evaluation.submission import write_submission

    if job.limit:
        console.print(f"note: only the first {job.limit} images; the server scores all of them")
    written = write_submission(file, job.index.annotation_file, folder, slugify(name))
    remove_earlier(folder, keep=[*job.sources, file, *written])
    for path in written:
        console.print(f"to upload: {path}", markup=False, highlight=False)


def keep(job: Job, result: Evaluation, source: Path, file: Path, folder: Path, console: Console) -> None:
    """Write the metrics, and the pictures that were asked for, of ``source``, whose results are in ``file``."""
    from afictl.evaluation.confusion_matrix import compute_confusion

    details = {
        "source": str(source),
        "data": str(job.index.annotation_file),
        "split": job.split,
        "limit": job.limit,
        "images": min(len(job.index), job.limit or len(job.index)),
        "settings": job.settings,
        "evaluator": job.evaluator,
        "tta": asdict(job.tta) if job.tta else None,
    }
    remove_earlier(folder, keep=[*job.sources, file])
    write_metrics(folder, result, details)
    if job.curves:
        write_curves(folder, result)
    if (score := job.confusion_score) is not None:
        annotations = job.index.annotation_file
        write_confusion(folder, compute_confusion(file, annotations, image_ids=job.image_ids, score=score))
    console.print(f"results: {folder}", markup=False, highlight=False)
