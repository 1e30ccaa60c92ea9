"""Faults of machines injected into trainings, and what was lost: ``python -m benchmarks.faults``.

Small trainings on generated images are killed at random moments, interrupted, deprived of disk space, shared memory,
images and processes, started twice, and started by launchers. Each is then continued until it is done, and compared
with an uninterrupted one: weights, predictions and ``metrics.jsonl`` have to be equal but for times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from afictl.data.shapes import make_shapes
from afictl.run_folder import LAST, LOG, STATE
from benchmarks.fault_runs import (
    TORCHRUN,
    Command,
    children_of,
    differences,
    end,
    kill,
    leftovers,
    require_code,
    require_line,
    start,
    wait_for_state,
    wait_until,
)
from benchmarks.results import run_benchmark, write_results
from tests.helpers.tiny_runs import SMALL

_STAGES = ("train", "stage1", "stage2")
_SETTINGS = [
    *(setting for setting in SMALL if not setting.startswith("interpolator.")),
    *(f"{stage}.{value}" for stage in _STAGES for value in ("steps=16", "eval_every=8", "checkpoint_every=4")),
    "loader.workers=1",
]
_DIVERGENCE = ["train.lr=100", "train.optimizer=sgd", "train.clip_norm=null", "train.warmup_steps=0"]
_ROOM = {"at once": (0.0, 0.0), "at a state": (0.5, 0.0), "at weights": (1.0, 0.5), "after best": (2.0, 1.5)}
"""States and files of weights that a disk has room for."""
_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
"""Runs a script of the shell that may mount file systems, which nobody else sees."""
_SHARED_MEMORY = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
_DISK = """
output=$1 copy=$2 size=$3; shift 3
mount -t tmpfs -o size=$size tmpfs "$output" || exit 1
"$@"; echo "code $?"
mount -o remount,size=1g "$output"
"$@" --resume && cp -a "$output/." "$copy"
"""


class Result(NamedTuple):
    """Faults of one kind, and what was lost by them."""

    command: str
    fault: str
    injected: int
    lost: list[str]


class Fault(NamedTuple):
    """A fault of one kind.

    ``inject`` starts a command with an output folder, beside an uninterrupted run of it, and returns the problems.
    """

    command: str
    name: str
    inject: Callable[[Command, Path, Path], list[str]]
    is_continued: bool = True
    """Whether the command is continued afterwards, and its runs compared with the uninterrupted ones."""
    injections: int = 1


def _commands(folder: Path) -> dict[str, Command]:
    data, guide = make_shapes(folder / "data", train=14, val=6, size=96), folder / "guide"
    preset = ["--preset", "faster-rcnn-r18-fpn-tiny", "--data", str(data), *_set(_SETTINGS)]
    Command(["finetune", *preset, "--interpolator", "nearest"]).finish(guide)
    finetune = Command(["finetune", *preset, "--interpolator", "dysample"], ["--resume"])
    return {
        "finetune": finetune,
        "2 processes": replace(finetune, words=[*finetune.words, "--devices", "2"]),
        "pretrain": Command(["pretrain", "--guide", str(guide), "--interpolator", "carafe"], ["--resume"]),
        "compare": Command(["compare", *preset, "--interpolators", "nearest,dysample"]),
    }


def _set(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _faults(kills: int, generator: random.Random) -> list[Fault]:
    """All faults, those of long durations first."""
    trainings = ("compare", "pretrain", "finetune")
    moments = {command: [generator.uniform(0.0, 0.8) for _ in range(kills)] for command in trainings}
    interruptions = {
        "SIGTERM": _terminate,
        "killed reading process": _kill_reader,
        "vanished images": _remove_images,
    }
    return [
        *(Fault(c, "SIGKILL at random", partial(_kill_at, moments[c]), injections=kills) for c in trainings),
        *(Fault(command, "two at once", _two_at_once) for command in ("pretrain", "finetune")),
        Fault("compare", "two at once", _share),
        Fault("finetune", "two resumed at once", _two_resumed_at_once),
        *(Fault("2 processes", name, inject) for name, inject in interruptions.items()),
        *(Fault("finetune", name, inject) for name, inject in interruptions.items()),
        Fault("2 processes", "killed process", _kill_process),
        Fault("2 processes", "torchrun", _launch_with_torchrun),
        Fault("2 processes", "srun", _launch_with_srun),
        Fault("2 processes", "srun, SIGUSR1 on two nodes", _preempt_two_nodes),
        Fault("2 processes", "one of two machines", _launch_one_machine, is_continued=False),
        *(Fault("finetune", f"full disk {moment}", partial(_fill_disk, *room)) for moment, room in _ROOM.items()),
        Fault("finetune", "64 kB of /dev/shm", _limit_shared_memory),
        Fault("finetune", "changed annotations", _change_annotations),
        Fault("finetune", "hostile state.pt", _replace_state),
        Fault("finetune", "divergence", partial(_diverge, 2), is_continued=False),
        Fault("compare", "divergence", partial(_diverge, 1), is_continued=False),
    ]


def _inject(fault: Fault, command: Command, folder: Path) -> Result:
    """Inject a fault, continue the command, and compare its runs with the uninterrupted ones in ``folder``."""
    expected = folder / fault.command
    output = folder / f"{fault.command}-{fault.name.replace('/', '-')}"
    problems = fault.inject(command, output, expected)
    if fault.is_continued:
        command.finish(output, again=True)
        problems = problems + differences(output, expected)
    return Result(fault.command, fault.name, fault.injections, problems + leftovers(output))


def _kill_at(moments: list[float], command: Command, output: Path, expected: Path) -> list[str]:
    """Kill the command at ``moments``, parts of the time between its first and last files."""
    files = [path.stat().st_mtime for path in expected.rglob("*") if path.is_file()]
    for attempt, moment in enumerate(moments):
        process = command.start(output, again=attempt > 0)
        wait_until(lambda: any(output.glob("*")), process)
        try:
            process.wait(moment * (max(files) - min(files)))
        except subprocess.TimeoutExpired:
            kill(output, process)
    return []


def _two_at_once(command: Command, output: Path, expected: Path, again: bool = False) -> list[str]:
    processes = [command.start(output, again=again) for _ in range(2)]
    (first, _), (second, text) = sorted(end(process) for process in processes)
    return require_code(first, "", 0) + require_line(second, text, "writes to it")


def _share(command: Command, output: Path, expected: Path) -> list[str]:
    """Two commands that start at once train each run once, and both report on all."""
    ends = [end(process) for process in [command.start(output) for _ in range(2)]]
    starts = {log: log.read_text().count(" held out") for log in output.rglob(LOG)}
    repeated = [f"{log.parent.relative_to(output)}: began {count} times" for log, count in starts.items() if count > 1]
    return [problem for code, text in ends for problem in require_code(code, text, 0)] + repeated


def _two_resumed_at_once(command: Command, output: Path, expected: Path) -> list[str]:
    return _terminate(command, output, expected) + _two_at_once(command, output, expected, again=True)


def _terminate(command: Command, output: Path, expected: Path) -> list[str]:
    process = command.start(output)
    wait_for_state(output, process)
    process.terminate()
    return require_code(*end(process), 130)


def _kill_reader(command: Command, output: Path, expected: Path) -> list[str]:
    return _kill_child(-1, command, output)


def _kill_process(command: Command, output: Path, expected: Path) -> list[str]:
    return _kill_child(0, command, output)


def _kill_child(index: int, command: Command, output: Path) -> list[str]:
    process = command.start(output)
    wait_for_state(output, process)
    os.kill(children_of(process.pid)[index], signal.SIGKILL)
    return require_line(*end(process), "kill" if index else "SIGKILL", expected=1)


def _with_own_data(command: Command, output: Path) -> tuple[Command, Path]:
    """The command on a copy of its dataset, and the copy."""
    position = command.words.index("--data") + 1
    copy = shutil.copytree(command.words[position], output.with_name(f"{output.name}-data"))
    words = [*command.words[:position], str(copy), *command.words[position + 1 :]]
    return replace(command, words=words), copy


def _remove_images(command: Command, output: Path, expected: Path) -> list[str]:
    changed, data = _with_own_data(command, output)
    process = changed.start(output)
    wait_for_state(output, process)
    (data / "train2017").rename(data / "hidden")
    return require_line(*end(process), str(data / "train2017"))


def _change_annotations(command: Command, output: Path, expected: Path) -> list[str]:
    changed, data = _with_own_data(command, output)
    problems = _terminate(changed, output, expected)
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    return problems + require_line(*end(changed.start(output, again=True)), str(file))


def _replace_state(command: Command, output: Path, expected: Path) -> list[str]:
    """A state of some kilobytes whose containers stand for 2 to the power of 60 values."""
    problems = _terminate(command, output, expected)
    state = output / STATE
    value: tuple[object, ...] = ()
    intact = state.rename(output.with_name(f"{output.name}-{STATE}"))
    for _ in range(60):
        value = (value, value)
    torch.save({"stage": value}, state)
    problems += require_line(*end(command.start(output, again=True)), str(state))
    intact.replace(state)
    return problems


def _fill_disk(states: float, weights: float, command: Command, output: Path, expected: Path) -> list[str]:
    """A disk with room for so many states and weights, or for nothing; later it has room."""
    sizes = ((expected / name).stat().st_size for name in (STATE, LAST))
    size = int(sum(count * size for count, size in zip((states, weights), sizes, strict=True))) or 16_384
    disk = output.with_name(f"{output.name}-disk")
    disk.mkdir()
    code, text = end(start([*_MOUNTS, _DISK, "sh", *map(str, (disk, output, size)), *command.line(disk)]))
    output.mkdir(exist_ok=True)
    first, _, _ = text.partition("\ncode 2\n")
    return require_code(code, text, 0) + require_line(2 if first != text else 1, first, os.strerror(28))


def _limit_shared_memory(command: Command, output: Path, expected: Path) -> list[str]:
    return require_code(*end(start([*_MOUNTS, _SHARED_MEMORY, "sh", *command.line(output)])), 0)


def _diverge(code: int, command: Command, output: Path, expected: Path) -> list[str]:
    diverging = replace(command, words=[*command.words, *_set(_DIVERGENCE)])
    return require_line(*end(diverging.start(output)), "lower the learning rate", expected=code)


def _launch_with_torchrun(command: Command, output: Path, expected: Path) -> list[str]:
    launched = replace(command, words=command.words[:-2], program=TORCHRUN)
    return require_code(*end(launched.start(output)), 0)


def _start_with_srun(command: Command, output: Path, nodes: int) -> list[subprocess.Popen[str]]:
    """Start both processes as ``srun`` does on one or two nodes, whose addresses are those of this machine."""
    common = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": "2" if nodes == 1 else "1(x2)",
        "SLURM_STEP_NODELIST": "127.0.0.1,localhost",
    }
    processes = []
    for rank in range(2):
        node, local_rank = (0, rank) if nodes == 1 else (rank, 0)
        variables = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local_rank), "SLURM_NODEID": str(node)}
        alone = replace(command, words=command.words[:-2], variables={**common, **variables})
        processes.append(alone.start(output))
    return processes


def _launch_with_srun(command: Command, output: Path, expected: Path) -> list[str]:
    processes = _start_with_srun(command, output, nodes=1)
    return [problem for process in processes for problem in require_code(*end(process), 0)]


def _preempt_two_nodes(command: Command, output: Path, expected: Path) -> list[str]:
    """``--signal=USR1@SECONDS`` of sbatch, which reaches all processes of a step."""
    processes = _start_with_srun(command, output, nodes=2)
    wait_for_state(output, processes[0])
    for process in processes:
        process.send_signal(signal.SIGUSR1)
    return [problem for process in processes for problem in require_code(*end(process), 130)]


def _launch_one_machine(command: Command, output: Path, expected: Path) -> list[str]:
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "NODE_RANK": "0", "AFICTL_JOIN_TIMEOUT": "3"}
    alone = replace(command, words=[*command.words[:-2], "--nodes", "2", "--devices", "1"], variables=variables)
    return require_line(*end(alone.start(output)), "waited 3 s")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--jobs", type=int, default=2, help="faults that are injected at the same time")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the lines 'command fault' to inject")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    faults = [
        fault
        for fault in _faults(arguments.kills, random.Random(arguments.seed))
        if any(part in f"{fault.command} {fault.name}" for part in arguments.only)
    ]
    results = []
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.jobs) as executor:
        folder = Path(name)
        commands = _commands(folder)
        uninterrupted = sorted({fault.command for fault in faults})
        list(executor.map(lambda command: commands[command].finish(folder / command), uninterrupted))
        print(f"{'command':13}{'fault':28}{'injected':>9}  lost")
        for result in executor.map(lambda fault: _inject(fault, commands[fault.command], folder), faults):
            lost = "; ".join(result.lost) or "nothing"
            print(f"{result.command:13}{result.fault:28}{result.injected:9}  {lost}", flush=True)
            results.append(result._asdict())
    write_results(arguments.json, results)


if __name__ == "__main__":
    run_benchmark(_main)
