"""Training of one run of an experiment, and ``result.json``, which is written last and marks the run as finished."""

from __future__ import annotations

import json
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.experiment.specification import RunSpecification
from afictl.comparison.records import read_result
from afictl.comparison.results import ComparisonRun
from afictl.data.fingerprint import ids_fingerprint
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, describe_out_of_memory, format_error, is_disk_full
from afictl.evaluation import score_predictions
from afictl.files import open_to_append, require_no_link, write_text
from afictl.folder_lock import FolderInUseError, locked_folder
from afictl.presets import Preset
from afictl.run_folder import CONFIG, DIVERGED, LOG, PREDICTIONS, RESULT, STATE
from afictl.training import finetune
from afictl.training.loop import DivergedError


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has a result."""
    return (folder / RESULT).is_file()


def train_run(fabric: Fabric, preset: Preset, data: Path, run: RunSpecification, waits: bool = False) -> None:
    """Train and evaluate one run, or continue an interrupted one, unless another command has finished it.

    If another process trains it, the function ``waits`` for its end, or does nothing.

    The training state, by far the largest file, is removed at the end, as a finished run is never continued.

    A training during which images change has no result, and its state is removed, too. Why a training diverged is
    written to ``diverged.txt``.

    Raises:
        UserError: as ``finetune``, or image files have changed during the training.
    """

    def write_result() -> None:
        held_out = outcome.splits.held_out
        evaluation = score_predictions(run.folder / PREDICTIONS, held_out, masks=preset.detector.masks)
        result = {
            "interpolator": run.initial_weights.as_config()["interpolator"],
            "seed": run.seed,
            "metrics": outcome.metrics,
            "per_class": evaluation.per_class,
            "seconds": outcome.seconds,
            "ids": ids_fingerprint(held_out),
        }
        write_text(run.folder / RESULT, json.dumps(result, indent=2))
        for name in (STATE, DIVERGED):
            (run.folder / name).unlink(missing_ok=True)

    require_no_link(run.folder, run.folder.parent.parent)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(run.folder, fabric.global_rank, fabric.world_size, wait=waits))
        except FolderInUseError:
            fabric.print(f"{run}: another command trains it")
            return
        if run_on_rank_zero(lambda: is_finished(run.folder), fabric.global_rank, fabric.world_size):
            fabric.print(f"{run}: another command has finished it")
            return
        resume = (run.folder / CONFIG).is_file()
        try:
            outcome = finetune(
                fabric, preset, data, run.folder, run.initial_weights, seed=run.seed, resume=resume, inputs=run.inputs
            )
        except DivergedError as error:
            reason = str(error)
            run_on_rank_zero(lambda: write_text(run.folder / DIVERGED, reason), fabric.global_rank, fabric.world_size)
            raise
        if run.inputs and outcome.image_change:
            raise UserError(
                f"{outcome.image_change}; restore it: {run.folder} will be trained from its first step, as its training"
                " may have read both versions"
            )
        run_on_rank_zero(write_result, fabric.global_rank, fabric.world_size)


def describe_failure(error: Exception, folder: Path) -> str:
    """Format an error as one line; append the traceback of an unexpected one to the log of the run in ``folder``."""
    if isinstance(error, UserError):
        return str(error)
    if is_disk_full(error):
        return format_error(error)
    reason, advice = describe_out_of_memory(error)
    if reason:
        return f"{reason}; {advice}"
    with suppress(OSError), open_to_append(folder / LOG) as file:
        file.write(traceback.format_exc())
    return f"unexpected {type(error).__name__}: {format_error(error)}"


def read_finished_run(folder: Path) -> ComparisonRun:
    """Read the finished run in ``folder``.

    Raises:
        UserError: ``result.json`` is invalid.
    """
    result = read_result(folder)
    return ComparisonRun(result.seed, folder, result.metrics, result.per_class, result.seconds)
