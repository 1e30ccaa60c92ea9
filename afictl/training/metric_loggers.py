"""Where the metrics of a training go beside ``metrics.jsonl``: TensorBoard, Weights & Biases or MLflow."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pydantic import TypeAdapter

from afictl.errors import UserError, one_line
from afictl.extras import import_optional
from afictl.files import name_file_in_errors, write_text
from afictl.run_folder import LOGGERS
from afictl.run_records import MetricsRecord, read_record

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

DEFAULT_LOGGERS = ("tensorboard",)
_PROJECT = "afictl"
_RUN_IDS = TypeAdapter(dict[str, str])

Values: TypeAlias = Mapping[str, float | None]


class MetricLogger(Protocol):
    """Receiver of the metrics of one training, on rank 0."""

    def resume(self, step: int, records: Sequence[MetricsRecord]) -> None:
        """Drop what was logged from ``step`` on, where possible, and log ``records`` of that step again."""

    def log(self, step: int, values: Values) -> None:
        """Log the values of a step."""

    def flush(self) -> None:
        """Write what is in memory."""

    def close(self) -> None:
        """Write the rest and end the connection."""


class TensorBoardLogger:
    """TensorBoard events in the folder of the run, from the first values on.

    Errors are ``OSError`` that name the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: SummaryWriter | None = None
        self._excepthook = threading.excepthook
        self._purge_step: int | None = None
        self._purged_records: Sequence[MetricsRecord] = ()

    def resume(self, step: int, records: Sequence[MetricsRecord]) -> None:
        """See ``MetricLogger``; TensorBoard purges whole steps."""
        self._purge_step, self._purged_records = step, records

    def log(self, step: int, values: Values) -> None:
        """See ``MetricLogger``."""
        with name_file_in_errors(self._folder):
            self._add(step, values)

    def flush(self) -> None:
        """See ``MetricLogger``."""
        if self._events is not None:
            with name_file_in_errors(self._folder):
                self._events.flush()

    def close(self) -> None:
        """See ``MetricLogger``."""
        if self._events is not None:
            try:
                with name_file_in_errors(self._folder):
                    self._events.close()
            finally:
                threading.excepthook = self._excepthook

    def _add(self, step: int, values: Values) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._report_thread_error
            self._events = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            for record in self._purged_records:
                self._add(record["step"], {name: value for name, value in record.items() if name != "step"})
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(name, value, step)

    def _report_thread_error(self, args: threading.ExceptHookArgs) -> None:
        """Print no traceback of TensorBoard's thread, such as of a full disk: its writer raises the error again."""
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._excepthook(args)


class RemoteLogger:
    """A logger of a service that may fail, such as for want of a network, while the training goes on.

    Args:
        name: for messages.
        send: logs numbers of a step.
        end: ends the connection.
        report: logs a line of text.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[dict[str, float], int], object],
        end: Callable[[], object],
        report: Callable[[str], None],
    ) -> None:
        self._name, self._send, self._end, self._report = name, send, end, report
        self._has_failed = False

    def resume(self, step: int, records: Sequence[MetricsRecord]) -> None:
        """See ``MetricLogger``; what a service has stays there."""

    def log(self, step: int, values: Values) -> None:
        """See ``MetricLogger``; after a failure, which is reported, nothing is sent any more."""
        if self._has_failed:
            return
        try:
            self._send({name: value for name, value in values.items() if value is not None}, step)
        except Exception as error:  # of any type, and no reason to lose a training
            self._has_failed = True
            self._report(f"warning: --log {self._name}: gets no more values ({one_line(error):.200})")

    def flush(self) -> None:
        """See ``MetricLogger``; services send by themselves."""

    def close(self) -> None:
        """See ``MetricLogger``."""
        with suppress(Exception):
            self._end()


def _start_wandb(folder: Path, config: Mapping[str, Any], run_id: str | None) -> tuple[str, Any, Any]:
    """Identifier of a run of Weights & Biases, and functions that log to it and end it."""
    wandb = import_optional("wandb", "--log wandb")
    run = wandb.init(
        project=_PROJECT, name=folder.name, dir=str(folder), config=dict(config), id=run_id, resume="allow"
    )
    return str(run.id), lambda values, step: run.log(values, step=step), run.finish


def _start_mlflow(folder: Path, config: Mapping[str, Any], run_id: str | None) -> tuple[str, Any, Any]:
    """``_start_wandb`` for MLflow, whose server and experiment are those of its environment variables."""
    mlflow = import_optional("mlflow", "--log mlflow")
    run = mlflow.start_run(run_id=run_id, run_name=None if run_id else folder.name)
    if run_id is None:
        mlflow.log_dict(dict(config), "config.json")
    return str(run.info.run_id), lambda values, step: mlflow.log_metrics(values, step=step), mlflow.end_run


_SERVICES = {"wandb": _start_wandb, "mlflow": _start_mlflow}
LOGGER_NAMES = (*DEFAULT_LOGGERS, *_SERVICES)


def require_loggers(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        UserError: one is not.
    """
    for name in names:
        if name in _SERVICES:
            import_optional(name, f"--log {name}")


def start_loggers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], report: Callable[[str], None]
) -> list[MetricLogger]:
    """Start loggers for the run in ``folder``; a resumed run continues its runs at the services.

    Args:
        names: of ``LOGGER_NAMES``.
        folder: of the run, which gets the file ``loggers.json`` with the identifiers at the services.
        config: settings of the run, which services show.
        report: logs a line of text.

    Raises:
        UserError: a package is not installed, or a service cannot be reached.
    """
    file = folder / LOGGERS
    run_ids = read_record(_RUN_IDS, file, "remove it") if file.is_file() else {}
    loggers: list[MetricLogger] = []
    for name in dict.fromkeys(names):
        if name not in _SERVICES:
            loggers.append(TensorBoardLogger(folder))
            continue
        try:
            run_ids[name], send, end = _SERVICES[name](folder, config, run_ids.get(name))
        except UserError:
            raise
        except Exception as error:  # of any type, such as for want of a login
            raise UserError(f"--log {name}: {one_line(error):.300}") from None
        loggers.append(RemoteLogger(name, send, end, report))
    if run_ids:
        write_text(file, json.dumps(run_ids))
    return loggers
