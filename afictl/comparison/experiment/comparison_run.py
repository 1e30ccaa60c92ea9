"""One cell of a grid: an ordinary run, and ``result.json``, which is written last and says that it is finished."""

from __future__ import annotations

import json
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from afictl.comparison.experiment.specification import RunSpecification
from afictl.comparison.results import ComparisonRun
from afictl.data import load_coco
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, describe_out_of_memory, format_error, is_disk_full
from afictl.evaluation import score_predictions
from afictl.files import write_text
from afictl.presets import Preset
from afictl.run_folder import CONFIG, LOG, PREDICTIONS, RESULT, STATE
from afictl.training import finetune

_OF_A_RESULT = {"interpolator", "seed", "metrics", "per_class", "seconds"}
EXIT_LOG_UNWRITABLE = 120
"""The exit code of a process that cannot write its last words; Python's own where they were still buffered."""


def is_finished(folder: Path) -> bool:
    """Whether the cell in ``folder`` has its result."""
    return (folder / RESULT).is_file()


def train_run(fabric: Fabric, preset: Preset, data: Path, job: RunSpecification) -> None:
    """Train and measure one cell; a cell that was stopped goes on.

    A finished cell is never continued, so that its resumable state, by far its largest file, is removed.

    Raises:
        UserError: as ``finetune``.
    """
    resume = (job.folder / CONFIG).is_file()
    outcome = finetune(fabric, preset, data, job.folder, job.start, seed=job.seed, resume=resume)

    def measure() -> None:
        scored = score_predictions(job.folder / PREDICTIONS, load_coco(data, "val"), masks=preset.detector.masks)
        result = {
            "interpolator": job.start.as_config()["interpolator"],
            "seed": job.seed,
            "metrics": outcome.metrics,
            "per_class": scored.per_class,
            "seconds": outcome.seconds,
        }
        write_text(job.folder / RESULT, json.dumps(result, indent=2))
        (job.folder / STATE).unlink(missing_ok=True)

    run_on_rank_zero(measure, fabric.global_rank, fabric.world_size)


def describe_failure(error: Exception, folder: Path) -> str:
    """One line for an error; the traceback of an unexpected one goes to the log of the run in ``folder``."""
    if isinstance(error, UserError):
        return str(error)
    if is_disk_full(error):
        return format_error(error)
    lacking, less = describe_out_of_memory(error)
    if lacking:
        return f"{lacking}; {less}"
    with suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return f"unexpected {type(error).__name__}: {format_error(error)}"


def read_finished_run(folder: Path) -> ComparisonRun:
    """A finished cell."""
    result = read_result(folder)
    return ComparisonRun(result["seed"], folder, result["metrics"], result["per_class"], result["seconds"])


def read_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``.

    Raises:
        UserError: it is damaged.
    """
    problem = "something is missing in it"
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if isinstance(result, dict) and result.keys() >= _OF_A_RESULT:
            return result
    except ValueError as error:
        problem = str(error)
    raise UserError(f"{folder / RESULT}: cannot be read ({problem}); remove it to measure this cell again")
