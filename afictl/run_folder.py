"""File names in the folders of runs, evaluations and comparisons, and functions that find run folders."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"
"""The resolved preset and all other settings of the run."""
LOG = "log.txt"
METRICS = "metrics.jsonl"
"""One JSON object a line: losses, learning rate and times of a step, or the metrics of an evaluation."""
VERSIONS = "versions.json"
"""Command line, package versions and devices."""
LOGGERS = "loggers.json"
"""Identifiers of the run at services such as Weights & Biases."""
STATE = "state.pt"
"""Training state that ``--resume`` loads."""
BEST = "best.safetensors"
LAST = "last.safetensors"
INTERPOLATOR = "interpolator.safetensors"
"""The learned interpolator of the best weights."""
PREDICTIONS = "predictions.json"
"""COCO results of the latest evaluation."""
FEATURE_DISTANCE = "feature_distance.json"
"""Stage 1: distance of enlarged features to the guide's, by method and level."""

RESULT = "result.json"
"""Metrics of a run of a comparison; written last, so that its presence marks the run as finished."""
DIVERGED = "diverged.txt"
"""Why a run of a comparison diverged."""
COMPARISON_SETTINGS = "compare.json"
COMPARISON = "comparison.json"
COMPARISON_CSV = "comparison.csv"
RUNS_CSV = "runs.csv"
REPORT = "report.html"

LOCK = ".lock"
"""Locked by the command that writes to the folder; see ``folder_lock``."""
LEASE = ".lock.lease"
"""Host and process id of that command, which renews it."""

EVALUATION = "metrics.json"
"""Settings and metrics of an evaluation."""
PER_CLASS = "per_class.csv"


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run."""
    return (folder / CONFIG).is_file()


def is_vacant(folder: Path) -> bool:
    """Whether ``folder`` is absent or has no content: nothing but a lock and drafts."""
    from afictl.files import is_draft  # not at the top: the command line imports this module

    if not folder.exists():
        return True
    return folder.is_dir() and all(path.name.startswith(LOCK) or is_draft(path) for path in folder.iterdir())


def has_records(folder: Path) -> bool:
    """Whether the run in ``folder`` has logged metrics or saved weights."""
    return any((folder / name).exists() for name in (METRICS, STATE, BEST, LAST))


def absolute_path(path: str | Path | None) -> str:
    """Path as recorded by a run, independent of the working directory; empty for None."""
    return str(Path(path).resolve()) if path else ""


def list_runs_below(folder: Path) -> str:
    """Suffix of an error about a folder that is not a run: up to five runs one or two levels below it."""
    runs = sorted(str(file.parent) for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{CONFIG}"))
    more = ", ..." if len(runs) > 5 else ""
    return f"; there are runs in it: {', '.join(runs[:5])}{more}" if runs else ""
