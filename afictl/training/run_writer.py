"""A run folder: the resolved config, log, metrics, TensorBoard events, checkpoints and versions of one training."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from rich.console import Console

from afictl.errors import UserError, format_error
from afictl.files import atomic_write, name_file_in_errors, remove_temporary_files, write_text
from afictl.run_folder import CONFIG, LOG, METRICS, STATE, VERSIONS, has_records

_MAY_DIFFER = ("preset.loader.", "hardware.processes.")  # do not change what is computed


class RunWriter:
    """The folder of one training; only rank 0 writes.

    Args:
        fabric: the launched Fabric.
        folder: where to write; must be absent or empty unless ``resume``.
        config: plain values that describe the run; kept as ``config.yaml``.
        resume: continue the run that is in ``folder``, if there is one.

    Raises:
        UserError: the folder is in use, or cannot be resumed with this config.
    """

    def __init__(self, fabric: Fabric, folder: Path, config: Mapping[str, Any], resume: bool) -> None:
        self.folder = Path(folder)
        self.console = Console(quiet=not fabric.is_global_zero, highlight=False, soft_wrap=True)
        self._writes = fabric.is_global_zero
        self._events: Any = None
        problem = ""
        if self._writes:  # told as text, so that every rank learns of it
            try:
                problem = self._prepare(config, resume)
            except OSError as error:
                problem = format_error(error)
            except yaml.YAMLError as error:
                problem = f"{self.folder}: {format_error(error)}"
        problem = fabric.broadcast(problem)
        if problem:
            raise UserError(problem)
        if resume and not self.state_file.is_file():
            self.log(f"nothing to continue from in {self.folder}: starting anew")

    @property
    def state_file(self) -> Path:
        """The resumable state."""
        return self.folder / STATE

    def _prepare(self, config: Mapping[str, Any], resume: bool) -> str:
        config = json.loads(json.dumps(dict(config), default=str))  # tuples and paths become what YAML gives back
        kept = self.folder / CONFIG
        remove_temporary_files(self.folder)
        if problem := why_occupied(self.folder, resume):
            return problem
        if kept.is_file() and not has_records(self.folder):
            self._clear()
        elif kept.is_file():
            changed = config_differences(yaml.safe_load(kept.read_text()), config)
            if changed:
                return f"{kept}: --resume needs the same settings; these differ: {', '.join(changed)}"
            return ""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(kept, yaml.safe_dump(config, sort_keys=False))  # first: it tells a run from any other folder
        write_text(self.folder / VERSIONS, json.dumps(_versions(), indent=2))
        return ""

    def _clear(self) -> None:
        """Remove what a run wrote that ended before its first record, as by an image that cannot be read."""
        for name in (CONFIG, LOG, VERSIONS):
            (self.folder / name).unlink(missing_ok=True)

    def log(self, text: str) -> None:
        """Print a line and keep it in ``log.txt``."""
        self.console.print(text, markup=False)
        if self._writes:
            _append(self.folder / LOG, text)

    def log_metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add the values of a step to ``metrics.jsonl`` and to TensorBoard."""
        if not self._writes:
            return
        _append(self.folder / METRICS, json.dumps({"step": step, **values}))
        for name, value in values.items():
            if value is not None:
                with name_file_in_errors(self.folder):
                    self._writer(step).add_scalar(name, value, step)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace the resumable state; until the new one is whole, the old one stays.

        Through a file of Python's: in its own, torch does not tell why it cannot write.
        """
        with atomic_write(self.state_file) as draft, draft.open("wb") as file:
            torch.save(dict(state), file)

    def truncate_metrics(self, step: int) -> None:
        """Drop recorded values later than ``step``, which a resumed run will compute again."""
        path = self.folder / METRICS
        if self._writes and path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(path, "".join(line for line in lines if 0 <= _step_of(line) <= step))

    def close(self) -> None:
        """Flush what is still buffered."""
        if self._events is not None:
            with name_file_in_errors(self.folder):
                self._events.close()

    def _writer(self, step: int) -> Any:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder), purge_step=step)
        return self._events


def why_occupied(folder: Path, resume: bool) -> str:
    """Why no run can be written to ``folder``, whatever its settings; empty where one can."""
    if (folder / CONFIG).is_file():
        if has_records(folder) and not resume:
            return f"{folder} already holds a run: choose another --output, or continue it with --resume"
    elif folder.exists() and any(folder.iterdir()):
        return f"{folder} is not empty and holds no run: choose another --output"
    return ""


def require_free_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder before anything is loaded for a run in it.

    Raises:
        UserError: it is in use.
    """
    if problem := why_occupied(folder, resume):
        raise UserError(problem)


def _append(path: Path, line: str) -> None:
    with name_file_in_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _step_of(line: str) -> int:
    """The step of a record; -1 for one that a crash cut short."""
    with contextlib.suppress(ValueError):
        return int(json.loads(line)["step"])
    return -1


def config_differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Dotted names of the settings that differ and may change what is computed."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [d for name in names for d in config_differences(old.get(name), new.get(name), f"{key}{name}.")]
    return [] if old == new or key.startswith(_MAY_DIFFER) else [key.rstrip(".")]


def _versions() -> dict[str, Any]:
    packages = ("afictl", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "hotcoco")
    return {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        **{name: metadata.version(name) for name in packages},
    }
