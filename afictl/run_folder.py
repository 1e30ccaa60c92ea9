"""File names in the folders of runs, evaluations and comparisons, and functions that find run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from afictl.errors import UserError

CONFIG = "config.yaml"
"""The resolved preset and all other settings of the run."""
LOG = "log.txt"
METRICS = "metrics.jsonl"
"""One JSON object a line: losses, learning rate and times of a step, or the metrics of an evaluation."""
VERSIONS = "versions.json"
"""Command line, package versions and devices."""
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
COMPARISON_SETTINGS = "compare.json"
COMPARISON = "comparison.json"
COMPARISON_CSV = "comparison.csv"
RUNS_CSV = "runs.csv"
REPORT = "report.html"

EVALUATION = "metrics.json"
"""Settings and metrics of an evaluation."""
PER_CLASS = "per_class.csv"

MetricsRecord: TypeAlias = Mapping[str, Any]
"""A line of ``metrics.jsonl``: the step, and numbers by name."""


def is_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run."""
    return (folder / CONFIG).is_file()


def has_records(folder: Path) -> bool:
    """Whether the run in ``folder`` has logged metrics or saved weights."""
    return any((folder / name).exists() for name in (METRICS, STATE, BEST, LAST))


def absolute_path(path: str | Path | None) -> str:
    """Path as recorded by a run, independent of the working directory; empty for None."""
    return str(Path(path).resolve()) if path else ""


def recorded_data(path: str | Path) -> Path:
    """Dataset that a run was trained on.

    Args:
        path: run folder, or a file in it.

    Raises:
        UserError: the run's ``config.yaml`` is absent, unreadable or names no dataset.
    """
    import yaml  # not at the top: the command line imports this module

    path = Path(path)
    file = (path if path.is_dir() else path.parent) / CONFIG
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: its dataset is unknown, as there is no {CONFIG}; give --data") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{file}: cannot be read, so the dataset is unknown; give --data") from None
    if not isinstance(config, dict) or not config.get("data"):
        raise UserError(f"{file}: names no dataset; give --data")
    return Path(config["data"])


def read_metrics(folder: Path) -> list[MetricsRecord]:
    """Read ``metrics.jsonl`` of a run line by line, without lines that a crash truncated.

    Raises:
        UserError: the folder is not a run, or has no metrics yet.
    """
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder}: not a run, as there is no {METRICS} in it{list_runs_below(folder)}")
    records: list[MetricsRecord] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
    if not records:
        raise UserError(f"{path}: no metrics yet")
    return records


def list_runs_below(folder: Path) -> str:
    """Suffix of an error about a folder that is not a run: up to five runs one or two levels below it."""
    runs = sorted(str(file.parent) for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{CONFIG}"))
    more = ", ..." if len(runs) > 5 else ""
    return f"; there are runs in it: {', '.join(runs[:5])}{more}" if runs else ""
