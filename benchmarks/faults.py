"""Faults of machines injected into trainings, and what was lost: ``python -m benchmarks.faults``.

Small trainings on generated images are killed at random moments, interrupted, deprived of disk space and of images, and
started twice. Each is then continued until it is done, and compared with an uninterrupted one: weights, predictions
and ``metrics.jsonl`` have to be equal but for times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from afictl.data.shapes import make_shapes
from afictl.errors import UserError
from afictl.run_folder import BEST, CONFIG, HOLDER, LAST, METRICS, PREDICTIONS, STATE
from afictl.run_records import read_metrics
from afictl.tensor_files import read_tensors
from benchmarks.results import ROOT, run_benchmark, write_results
from tests.helpers.tiny_runs import SMALL

_TIMES = {"seconds_per_step", "data_seconds", "memory_gib"}
_STAGES = ("train", "stage1", "stage2")
_SETTINGS = [
    *(setting for setting in SMALL if not setting.startswith("interpolator.")),
    *(f"{stage}.{value}" for stage in _STAGES for value in ("steps=24", "eval_every=8", "checkpoint_every=4")),
    "loader.workers=1",
]
_TIMEOUT_SECONDS = 300.0
_FULL_DISK = """
import sys
from pathlib import Path
from afictl.cli.main import main
from afictl.training.logger import TrainingLogger
from tests.helpers.full_disk import fill_disk_for

folder = Path(sys.argv[sys.argv.index("--output") + 1])
log_step = TrainingLogger.log_step

def fill(logger, *values):
    if (folder / "state.pt").is_file() and not list(folder.glob(".state.pt.*")):
        fill_disk_for(folder / "state.pt")
    return log_step(logger, *values)

TrainingLogger.log_step = fill
main()
"""


class Result(NamedTuple):
    """Faults of one kind, and what was lost by them."""

    command: str
    fault: str
    injected: int
    lost: list[str]


class Command(NamedTuple):
    """A training command without ``--output``, and the flag that continues it."""

    words: list[str]
    resume: list[str]

    def start(self, output: Path, *, again: bool = False, script: str = "") -> subprocess.Popen[str]:
        """Start the command, or ``script`` with its words; ``again`` continues it."""
        program = ["-c", script] if script else ["-m", "afictl"]
        words = [sys.executable, *program, *self.words, "--output", str(output), *(self.resume if again else [])]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)

    def finish(self, output: Path, *, again: bool = False) -> float:
        """Run the command to its end; returns its seconds of training.

        Raises:
            UserError: it fails.
        """
        process = self.start(output, again=again)
        started = _wait_for_lock(output, process)
        code, text = _end(process)
        if code:
            raise UserError(f"{' '.join(self.words[:1])} ended with code {code}: {text[-300:]}")
        return time.monotonic() - started


def _commands(folder: Path) -> dict[str, Command]:
    data, guide = make_shapes(folder / "data", train=14, val=6, size=96), folder / "guide"
    settings = [word for setting in _SETTINGS for word in ("--set", setting)]
    preset = ["--preset", "faster-rcnn-r18-fpn-tiny", "--data", str(data), *settings]
    Command(["finetune", *preset, "--interpolator", "nearest"], []).finish(guide)
    return {
        "finetune": Command(["finetune", *preset, "--interpolator", "dysample"], ["--resume"]),
        "pretrain": Command(["pretrain", "--guide", str(guide), "--interpolator", "carafe"], ["--resume"]),
        "compare": Command(["compare", *preset, "--interpolators", "nearest,dysample"], []),
    }


def _wait_for_lock(output: Path, process: subprocess.Popen[str]) -> float:
    while process.poll() is None and not (output / HOLDER).exists():
        time.sleep(0.05)
    return time.monotonic()


def _wait_for_state(output: Path, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not (output / STATE).exists():
        time.sleep(0.05)


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = process.communicate(timeout=_TIMEOUT_SECONDS)
    return process.returncode, text


def _kill(output: Path, process: subprocess.Popen[str]) -> None:
    """Kill the command and the processes in which it trains."""
    process.kill()
    for holder in output.rglob(HOLDER):
        try:
            os.kill(int(json.loads(holder.read_text())["process"]), signal.SIGKILL)
        except (OSError, ValueError, KeyError):  # it has ended, or was killed while it wrote
            continue
    process.communicate()


def differences(folder: Path, expected: Path) -> list[str]:
    """Files of the runs below ``folder`` that differ from those below ``expected``."""
    return [
        f"{run.relative_to(expected)}/{name}"
        for run in sorted(path.parent for path in expected.rglob(CONFIG))
        for name in (BEST, LAST, PREDICTIONS, METRICS)
        if (run / name).exists() and not _is_equal(folder / run.relative_to(expected) / name, run / name)
    ]


def _is_equal(file: Path, expected: Path) -> bool:
    if not file.is_file():
        return False
    if file.name == METRICS:
        first, second = (
            [{k: v for k, v in r.items() if k not in _TIMES} for r in read_metrics(path.parent)]
            for path in (file, expected)
        )
        return first == second
    if file.name == PREDICTIONS:
        return file.read_bytes() == expected.read_bytes()
    first_tensors, second_tensors = read_tensors(file)[0], read_tensors(expected)[0]
    return first_tensors.keys() == second_tensors.keys() and all(
        torch.equal(value, second_tensors[name]) for name, value in first_tensors.items()
    )


def _leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def inject(folder: Path, commands: dict[str, Command], kills: int, generator: random.Random) -> Iterator[Result]:
    """Inject all faults, one kind after the other."""
    for name, command in commands.items():
        expected = folder / f"{name}-uninterrupted"
        seconds = command.finish(expected)
        output = folder / f"{name}-killed"
        count = 0
        for attempt in range(kills):
            process = command.start(output, again=attempt > 0)
            _wait_for_lock(output, process)
            time.sleep(generator.uniform(0.0, 0.8 * seconds))
            count += process.poll() is None
            _kill(output, process)
        command.finish(output, again=True)
        yield Result(name, "SIGKILL at random", count, differences(output, expected) + _leftovers(output))
        yield _two_at_once(name, command, folder / f"{name}-twice", expected)
    expected, command = folder / "finetune-uninterrupted", commands["finetune"]
    for fault, breaks in {"SIGTERM": _terminate, "full disk": _fill_disk, "vanished image": _remove_image}.items():
        output = folder / f"finetune-{fault.replace(' ', '-')}"
        problem = breaks(command, output)
        command.finish(output, again=True)
        yield Result("finetune", fault, 1, problem + differences(output, expected) + _leftovers(output))


def _two_at_once(name: str, command: Command, output: Path, expected: Path) -> Result:
    processes = [command.start(output) for _ in range(2)]
    ends = sorted(_end(process) for process in processes)
    lost = differences(output, expected)
    message = ends[1][1].strip().splitlines()[-1:] if ends[1][0] else []
    if [code for code, _ in ends] != [0, 2] or "writes to it" not in "".join(message):
        lost.append(f"codes {[code for code, _ in ends]}: {message}")
    return Result(name, "two at once", 1, lost + _leftovers(output))


def _terminate(command: Command, output: Path) -> list[str]:
    process = command.start(output)
    _wait_for_state(output, process)
    process.terminate()
    code, text = _end(process)
    return [] if code == 130 else [f"code {code}: {text[-200:]}"]


def _fill_disk(command: Command, output: Path) -> list[str]:
    code, text = _end(command.start(output, script=_FULL_DISK))
    return _require_line(code, text, os.strerror(28))


def _remove_image(command: Command, output: Path) -> list[str]:
    images = Path(command.words[command.words.index("--data") + 1]) / "train2017"
    process = command.start(output)
    _wait_for_state(output, process)
    hidden = images.rename(images.with_name("hidden"))
    code, text = _end(process)
    hidden.rename(images)
    return _require_line(code, text, str(images))


def _require_line(code: int, text: str, fact: str) -> list[str]:
    """A problem unless the command ended with code 2 and one line of error that has ``fact``."""
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    is_right = code == 2 and len(errors) == 1 and fact in errors[0] and "Traceback" not in text
    return [] if is_right else [f"code {code}: {text[-200:]}"]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        commands = _commands(Path(folder))
        print(f"{'command':10}{'fault':20}{'injected':>9}  lost")
        for result in inject(Path(folder), commands, arguments.kills, random.Random(arguments.seed)):
            lost = "; ".join(result.lost) or "nothing"
            print(f"{result.command:10}{result.fault:20}{result.injected:9}  {lost}", flush=True)
            results.append(result._asdict())
    write_results(arguments.json, results)


if __name__ == "__main__":
    run_benchmark(_main)
