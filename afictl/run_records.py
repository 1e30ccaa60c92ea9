"""Schemas of the files that a run and an evaluation write, and the one reader of each file."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from afictl.errors import UserError, plain_constraint
from afictl.json_files import parse_json, read_json, read_json_lines
from afictl.regular_files import open_regular
from afictl.run_folder import CONFIG, METRICS, list_runs_below
from afictl.yaml_files import read_yaml

_TAIL_BYTES = 4096
"""Bytes read at the end of ``metrics.jsonl``, enough for its last line."""
MAX_VALUE = 1e39
"""Above the largest float32, which no loss or metric exceeds."""

Number: TypeAlias = Annotated[float, Field(strict=True, ge=-MAX_VALUE, le=MAX_VALUE, allow_inf_nan=False)]
"""A finite number; ``True`` is none."""
Count: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
"""A number of steps or seconds, or a seed."""
MetricsRecord: TypeAlias = dict[str, Any]
"""A line of ``metrics.jsonl``: the step, and numbers by name."""

T = TypeVar("T")


class Record(BaseModel):
    """Base of the schemas; a key that a schema lacks is allowed, as later versions may record more."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class HardwareRecord(Record):
    """``hardware`` of ``config.yaml``."""

    precision: str = ""
    processes: int = 1
    """Number that began the run."""
    later_processes: list[int] = []
    """Other numbers that continued it."""
    threads: int | None = None
    """Of each process that began the run on a CPU; None on GPUs and in runs of earlier versions."""
    later_threads: list[int] = []
    compile: bool = False
    """Whether the run began with ``--compile``."""
    later_compile: list[bool] = []


class RunConfig(Record):
    """``config.yaml``: the settings of a run; paths are absolute, and empty where there is none."""

    command: str = ""
    preset: dict[str, Any] = {}
    """As ``parse_preset`` reads it."""
    data: str = ""
    interpolator: str = ""
    """Kind, or path of a run or file."""
    weights: str = ""
    backbone_weights: str = ""
    guide: str = ""
    seed: int = 0
    hardware: HardwareRecord = HardwareRecord()
    classes: list[str] = []
    """Class names in label order; empty in runs of earlier versions, like ``contents``."""
    contents: dict[str, str] = {}
    """Fingerprints of the input files by name."""


class DetectorDescription(Record):
    """Description in the header of ``best.safetensors`` and ``last.safetensors``."""

    classes: list[str]
    """Name of label k at index k - 1."""
    category_ids: list[int | None] | None = None
    """COCO category ids in the order of ``classes``."""
    step: Count | None = None
    metrics: dict[str, Number | None] = {}
    """Of the evaluation of these weights; empty without one."""
    ended_early: bool = False
    """Whether the training ended with them before its last step, as ``train.patience`` was exhausted."""


class EvaluationRecord(Record):
    """``metrics.json`` of an evaluation, as far as a later one reads it."""

    source: str


_CONFIG = TypeAdapter(RunConfig)
_DESCRIPTION = TypeAdapter(DetectorDescription)
_EVALUATION = TypeAdapter(EvaluationRecord)
_FEATURE_DISTANCE = TypeAdapter(dict[str, dict[str, dict[str, Number]]])
_VERSIONS = TypeAdapter(dict[str, str | list[str]])
_STEP = TypeAdapter(dict[str, Number | None])


def read_config(file: Path) -> RunConfig:
    """Read ``config.yaml`` of a run.

    Raises:
        UserError: it cannot be read, or has no settings of a run.
    """
    return validate(_CONFIG, read_yaml(file), str(file))


def recorded_data(path: str | Path) -> Path:
    """Dataset that a run was trained on.

    Args:
        path: run folder, or a file in it.

    Raises:
        UserError: the run's ``config.yaml`` is absent, unreadable or names no dataset.
    """
    path = Path(path)
    file = (path if path.is_dir() else path.parent) / CONFIG
    if not file.is_file():
        raise UserError(f"{path}: its dataset is unknown, as there is no {CONFIG}; give --data")
    try:
        data = read_config(file).data
    except UserError as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise UserError(f"{file}: the dataset is unknown ({reason}); give --data") from None
    if not data:
        raise UserError(f"{file}: names no dataset; give --data")
    return Path(data)


def read_metrics(folder: Path) -> list[MetricsRecord]:
    """Read ``metrics.jsonl`` of a run, without a last line that a crash cut short.

    Raises:
        UserError: the folder is not a run, has no metrics yet, or a line is no record of a step.
    """
    path = folder / METRICS
    if not path.is_file():
        raise UserError(f"{folder}: not a run, as there is no {METRICS} in it{list_runs_below(folder)}")
    records = [record for _, record in iter_metrics(path)]
    if not records:
        raise UserError(f"{path}: no metrics yet")
    return records


def iter_metrics(path: Path) -> Iterator[tuple[str, MetricsRecord]]:
    """Yield the lines of ``metrics.jsonl`` as text and as records, without a last line that a crash cut short.

    Raises:
        UserError: a line is no record of a step, or the file cannot be read.
    """
    *lines, last = read_json_lines(path)
    for number, line in enumerate((*lines, last), start=1):
        name = f"{path}: line {number}"
        if not line.strip():
            continue
        try:
            record = parse_json(line, name)
        except UserError:
            if number > len(lines):  # cut short
                return
            raise
        values = validate(_STEP, record, name, "remove the line")
        step = record.get("step")
        if type(step) is not int or step < 0:
            raise UserError(f"{name}: 'step' is {reprlib.repr(step)}, not a number of steps; remove the line")
        yield line.decode(), {**values, "step": step}


def read_description(metadata: Mapping[str, object], file: Path) -> DetectorDescription:
    """The description of a detector from the ``metadata`` of its file.

    Raises:
        UserError: it is none.
    """
    return validate(_DESCRIPTION, metadata, f"{file}: its description", "train or convert it again")


def read_evaluation(file: Path) -> EvaluationRecord:
    """Read ``metrics.json`` of an evaluation.

    Raises:
        UserError: it cannot be read, or is no evaluation.
    """
    return read_record(_EVALUATION, file, "remove it")


def read_versions(file: Path) -> dict[str, str | list[str]]:
    """Read ``versions.json`` of a run: versions by package, ``command`` as a list of words and ``cuda`` of devices.

    Raises:
        UserError: it cannot be read, or has other content.
    """
    return read_record(_VERSIONS, file, "remove it")


def read_feature_distance(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Read ``feature_distance.json`` of stage 1: method -> level -> measure -> value.

    Raises:
        UserError: it cannot be read, or has other content.
    """
    return read_record(_FEATURE_DISTANCE, file, "train stage 1 again")


def read_record(schema: TypeAdapter[T], file: Path, advice: str) -> T:
    """Read a JSON file as an object of ``schema``.

    Raises:
        UserError: it cannot be read, or has other content; ends with ``advice``.
    """
    try:
        content = read_json(file)
    except UserError as error:
        raise UserError(f"{error}; {advice}") from None
    return validate(schema, content, str(file), advice)


def last_step(folder: Path) -> int:
    """Step of the last record of a run that another process may be writing; 0 without one."""
    try:
        with open_regular(folder / METRICS) as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            step = parse_json(file.read().splitlines()[-1], METRICS)["step"]
    except (OSError, UserError, IndexError, KeyError, TypeError):
        return 0
    return step if isinstance(step, int) else 0


def validate(schema: TypeAdapter[T], content: object, name: str, advice: str = "restore the file") -> T:
    """``content`` as an object of ``schema``.

    Raises:
        UserError: it is none; names the source, the key and its value, and ends with ``advice``.
    """
    try:
        return schema.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{name}: {_describe(error)}; {advice}") from None


def _describe(error: ValidationError) -> str:
    """The first fault: its key, value and reason."""
    item = error.errors(include_url=False)[0]
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "missing":
        return f"key '{key}' is missing"
    value, reason = reprlib.repr(item["input"]), plain_constraint(item["msg"])
    return f"'{key}' is {value}; it {reason}" if key else f"its content is {value}; it {reason}"
