"""Writer of a run folder: resolved config, log, metrics, state and versions of one training."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from afictl.errors import UserError, format_error
from afictl.files import (
    atomic_write,
    name_file_in_errors,
    open_to_append,
    remove_temporary_files,
    remove_unfinished_weights,
    write_text,
)
from afictl.presets import upgrade_settings
from afictl.run_folder import CONFIG, LOG, METRICS, STATE, VERSIONS, has_records, is_vacant
from afictl.run_records import RunConfig, iter_metrics, read_config
from afictl.training.hardware import hardware_record, precision_note
from afictl.training.metric_loggers import DEFAULT_LOGGERS, MetricLogger, start_loggers
from afictl.training.process_count import compile_note, process_mismatch, thread_note
from afictl.training.run_inputs import is_moved
from afictl.yaml_files import dump_yaml

_WITHOUT_EFFECT = ("preset.loader.",)
"""Prefixes of settings that do not change the results."""
_NOTED = tuple(f"hardware.{prefix}{key}" for key in ("processes", "threads", "compile") for prefix in ("", "later_"))
"""Keys that ``process_mismatch``, ``thread_note`` and ``compile_note`` compare."""
_MAX_DIFFERENCES = 3
"""Differing settings that a message shows with their values."""
_INPUTS = ("classes", "contents")
"""Keys that ``RecordedInputs`` compares."""


class RunWriter:
    """Writes the folder of one training, on rank 0 alone.

    Args:
        fabric: the launched Fabric.
        folder: absent or empty unless ``resume``.
        config: all settings of the run as plain values, stored in ``config.yaml``.
        resume: continue the run in ``folder``, if there is one.
        dependence: why the results depend on the number of processes, see ``process_dependence``. A run of another
            number is then not continued, and otherwise with a note.
        loggers: names of what the metrics are logged to, see ``metric_loggers``.

    Raises:
        UserError: the folder is in use, or its run has other settings.
    """

    def __init__(
        self,
        fabric: Fabric,
        folder: Path,
        config: Mapping[str, object],
        resume: bool,
        dependence: str = "",
        loggers: Sequence[str] = DEFAULT_LOGGERS,
    ) -> None:
        self.folder = Path(folder)
        self.console = Console(quiet=not fabric.is_global_zero, highlight=False, soft_wrap=True)
        self.saved_step: int | None = None
        """Step of the latest saved state."""
        self._is_main_process = fabric.is_global_zero
        self._loggers: list[MetricLogger] = []
        problem, note = "", ""
        if self._is_main_process:  # broadcast as text, so that every rank raises it
            try:
                problem = self._prepare_folder(config, resume)
                if not problem:
                    problem, note = self._compare_hardware(hardware_record(fabric), dependence)
                if not problem:
                    self._loggers = start_loggers(loggers, self.folder, _plain(config), self.log)
            except (OSError, UserError) as error:
                problem = format_error(error)
        problem = fabric.broadcast(problem)
        if problem:
            raise UserError(problem)
        for line in filter(None, (note, precision_note(fabric))):
            self.log(line)
        if resume and not self.state_file.is_file():
            reason = "there is no saved state" if has_records(self.folder) else "there is no run to continue"
            self.log(f"note: {reason} in {self.folder}, so training starts at step 0")

    @property
    def state_file(self) -> Path:
        """The state that ``--resume`` continues from."""
        return self.folder / STATE

    def _prepare_folder(self, config: Mapping[str, object], resume: bool) -> str:
        """Create the folder, or check the run in it; returns the problem, empty for none."""
        config = _plain(config)
        config_file = self.folder / CONFIG
        remove_temporary_files(self.folder)
        remove_unfinished_weights(self.folder)
        if problem := occupied_reason(self.folder, resume):
            return problem
        if config_file.is_file():
            if has_records(self.folder):
                differences = describe_other_settings(read_config(config_file), config)
                return f"{config_file}: --resume with other settings: {differences}" if differences else ""
            for name in (CONFIG, LOG, VERSIONS):  # of a run that failed before its first record
                (self.folder / name).unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(config_file, dump_yaml(config))  # first: it marks the folder as a run
        write_text(self.folder / VERSIONS, json.dumps(_versions(), indent=2))
        return ""

    def _compare_hardware(self, present: Mapping[str, str | int], dependence: str) -> tuple[str, str]:
        """The problem of a run that was begun by another number of processes, or a note; records what is present.

        Args:
            present: result of ``hardware_record``.
            dependence: as for the class.
        """
        config_file = self.folder / CONFIG
        config = read_config(config_file)
        begun = config.hardware.model_dump()
        problem, note = process_mismatch(begun["processes"], int(present["processes"]), dependence)
        compiles = bool(present.get("compile", False))
        notes = {
            "processes": note,
            "threads": thread_note(begun["threads"], int(present.get("threads", 0))),
            "compile": compile_note(begun["compile"], compiles),
        }
        later = {f"later_{name}": present.get(name, False) for name, note in notes.items() if note}
        if new := {key: [*begun[key], value] for key, value in later.items() if value not in begun[key]}:
            content = config.model_dump(exclude_unset=True)
            content["hardware"] = content.get("hardware", {}) | new
            write_text(config_file, dump_yaml(content))
        return f"{config_file}: {problem}" if problem else "", "\n".join(filter(None, notes.values()))

    def log(self, text: str) -> None:
        """Print a line and append it to ``log.txt``."""
        self.console.print(text, markup=False)
        if self._is_main_process:
            _append(self.folder / LOG, text)

    def log_metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Append the values of a step to ``metrics.jsonl``, and pass them to the loggers."""
        if not self._is_main_process:
            return
        _append(self.folder / METRICS, json.dumps({"step": step, **values}))
        for logger in self._loggers:
            logger.log(step, values)

    def save_state(self, state: Mapping[str, object]) -> None:
        """Replace ``state.pt`` atomically.

        Through a Python file object: torch's own writer does not report why it cannot write. The loggers are
        flushed before, as a run that is resumed from the state does not log again.
        """
        for logger in self._loggers:
            logger.flush()
        with atomic_write(self.state_file) as draft, draft.open("wb") as file:
            torch.save(dict(state), file)

    def truncate_metrics(self, step: int, is_evaluated: bool) -> None:
        """Drop the records after a saved state, which a resumed run computes again; on rank 0.

        Args:
            step: of the state.
            is_evaluated: whether the state includes the evaluation of ``step``.

        Raises:
            UserError: a line is no record of a step.
        """
        path = self.folder / METRICS
        if not path.is_file():
            return
        # Only records of losses have a learning rate.
        records = [(line, r) for line, r in iter_metrics(path) if r["step"] < step + (is_evaluated or "lr" in r)]
        write_text(path, "".join(f"{line}\n" for line, _ in records))
        # Whole steps are purged: the losses of a step whose evaluation is dropped are logged again.
        purge_step = step + is_evaluated
        for logger in self._loggers:
            logger.resume(purge_step, [record for _, record in records if record["step"] >= purge_step])

    def close(self) -> None:
        """Write what the loggers have in memory."""
        for logger in self._loggers:
            logger.close()


def _plain(config: Mapping[str, object]) -> dict[str, Any]:
    """The settings with tuples and paths as YAML returns them."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
    return plain


def occupied_reason(folder: Path, resume: bool) -> str:
    """Why no run can be written to ``folder``, whatever its settings; empty if one can."""
    if (folder / CONFIG).is_file():
        if has_records(folder) and not resume:
            return f"{folder} already holds a run: choose another --output, or continue it with --resume"
    elif not is_vacant(folder):
        advice = "; --resume needs the folder of a run" if resume else ""
        return f"{folder} is not empty and holds no run: choose another --output{advice}"
    return ""


def require_free_folder(folder: Path, resume: bool) -> None:
    """Check the folder of a run before anything is loaded.

    Raises:
        UserError: it is in use.
    """
    if reason := occupied_reason(folder, resume):
        raise UserError(reason)


def config_differences(old: object, new: object, key: str = "") -> list[str]:
    """Dotted keys of the settings that differ and may change the results."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [d for name in names for d in config_differences(old.get(name), new.get(name), f"{key}{name}.")]
    return [] if old == new or key.startswith(_WITHOUT_EFFECT) else [key.rstrip(".")]


def describe_differences(old: object, new: object, keys: Sequence[str]) -> str:
    """The settings ``keys`` that differ, with both values; of another preset its name alone."""
    if "preset.name" in keys:
        return f"preset {_value_at(old, 'preset.name')}, now {_value_at(new, 'preset.name')}"
    texts = [f"{key} {_value_at(old, key)}, now {_value_at(new, key)}" for key in keys[:_MAX_DIFFERENCES]]
    more = len(keys) - len(texts)
    return "; ".join([*texts, *([f"{more} more: {', '.join(keys[_MAX_DIFFERENCES:])}"] if more else [])])


def _value_at(settings: object, key: str) -> str:
    """The value of a dotted key for a message, shortened."""
    value = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return "none" if value in (None, "") else f"{value!s:.80}"


def describe_other_settings(old: RunConfig, new: Mapping[str, object], prefixes: tuple[str, ...] = ("",)) -> str:
    """How settings differ from those of a run; empty if they do not, but for paths to files with unchanged content.

    Args:
        old: of the run.
        new: as in ``config.yaml``.
        prefixes: of the dotted keys that are compared, with a dot at their end.
    """
    stored = upgrade_settings(old.model_dump(exclude_unset=True, exclude=set(_INPUTS)))
    present = {key: value for key, value in new.items() if key not in _INPUTS}
    fingerprints: Any = new.get("contents", {})
    differences = [key for key in config_differences(stored, present) if key not in _NOTED]
    differences = [key for key in differences if not is_moved(key, old.contents, fingerprints)]
    differences = [key for key in differences if f"{key}.".startswith(prefixes)]
    return f"the run has {describe_differences(stored, present, differences)}" if differences else ""


def _append(path: Path, line: str) -> None:
    with name_file_in_errors(path), open_to_append(path) as file:
        file.write(line + "\n")


def _platform() -> str:
    """System, machine and C library; the kernel's release has no influence and says more than a report should."""
    library = "".join(platform.libc_ver())
    return "-".join((platform.system(), platform.machine(), *([f"with-{library}"] if library else [])))


def _versions() -> dict[str, object]:
    packages = ("afictl", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "hotcoco")
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": _platform(),
        "cuda": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        **{name: metadata.version(name) for name in packages},
    }
