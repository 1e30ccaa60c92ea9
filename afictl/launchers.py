"""The process group of torchrun, srun or mpirun, read from their environment variables.

Legend: rank is the number of a process in its group, local rank its number on its machine, node a machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from afictl.errors import UserError

OWN_LAUNCHER = "afictl"
"""``LaunchedProcess.launcher`` of the processes of ``--devices`` and ``--nodes``."""
PARENT = "AFICTL_PARENT"
"""Environment variable of the processes that ``--devices`` starts: id of the process that started them."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_SLURM_SPECIAL_STEPS = range(2**32 - 16, 2**32)
"""Step ids of batch scripts, interactive shells and other steps that srun did not start."""
_DEFAULT_PORT, _PORTS = 10_000, 20_000  # below the ports that Linux gives to outgoing connections


@dataclass(frozen=True)
class LaunchedProcess:
    """Position of this process in its group, and where the group meets."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    num_nodes: int
    node_rank: int
    address: str
    """Host of rank 0."""
    port: int


@dataclass(frozen=True)
class _Variables:
    """Names of a launcher's environment variables."""

    launcher: str
    rank: str
    world_size: str
    local_rank: str
    local_world_size: str


_TORCH = _Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OPEN_MPI = _Variables("mpirun", *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))
_HYDRA = _Variables("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")


def launched_process(environ: Mapping[str, str] = os.environ) -> LaunchedProcess | None:
    """The process as its launcher describes it; None for a process that was started alone.

    Variables of SLURM count only inside ``srun``: in a batch script and in the shell of ``salloc`` they describe the
    allocation, not this process.

    Raises:
        UserError: variables that are incomplete or contradict each other.
    """
    if _has_torch_variables(environ):
        return _from_variables(_TORCH, environ)
    if _OPEN_MPI.rank in environ:
        process = _from_variables(_OPEN_MPI, environ)
    elif _is_srun_task(environ):
        process = _from_slurm(environ)
    elif _HYDRA.rank in environ and _HYDRA.local_rank in environ:
        process = _from_variables(_HYDRA, environ)
    else:
        return None
    return process if process.world_size > 1 else None  # such as the shell of 'srun --pty'


def is_launched_externally(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun, srun or mpirun started this process, which also ends it."""
    process = launched_process(environ)
    return process is not None and process.launcher != OWN_LAUNCHER


def agent_of_torchrun(environ: Mapping[str, str] = os.environ) -> int | None:
    """Id of the process of torchrun that started this one and would end it; None for a process of another launcher."""
    return os.getppid() if _TORCHRUN in environ else None


def require_single_process(environ: Mapping[str, str] = os.environ) -> bool:
    """Check that a command that uses one process was not started several times.

    Returns:
        False in a process that has nothing to do, as another one reports the error.

    Raises:
        UserError: it was; raised in rank 0 alone, so that it is reported once.
    """
    process = launched_process(environ)
    if process is None or process.world_size == 1:
        return True
    if process.rank:
        return False
    raise UserError(
        f"this command uses one process, and {process.launcher} started {process.world_size}: "
        f"start it without {process.launcher}"
    )


def integer(name: str, environ: Mapping[str, str]) -> int:
    """Value of an environment variable.

    Raises:
        UserError: it is not set, or no integer of at least 0.
    """
    text = environ.get(name)
    if text is None or not re.fullmatch(r"\d{1,9}", text.strip()):
        reason = "is not set" if text is None else f"is '{text}', not a number"
        raise UserError(f"the environment variable {name} {reason}")
    return int(text)


def _has_torch_variables(environ: Mapping[str, str]) -> bool:
    """Whether the variables of torch.distributed are set, by torchrun or by hand."""
    is_one_of_several = environ.get(_TORCH.rank, "0") != "0" or environ.get(_TORCH.world_size, "1") != "1"
    return is_one_of_several or _TORCHRUN in environ


def _from_variables(variables: _Variables, environ: Mapping[str, str]) -> LaunchedProcess:
    launcher = variables.launcher
    if variables is _TORCH and _TORCHRUN not in environ:
        launcher = OWN_LAUNCHER if PARENT in environ else "the launcher"
    rank, world_size = integer(variables.rank, environ), integer(variables.world_size, environ)
    local_rank = integer(variables.local_rank, environ)
    local_world_size = max(_number(variables.local_world_size, environ, 1), local_rank + 1)
    address, port = _meeting_point(environ) if world_size > 1 else ("127.0.0.1", 0)
    process = LaunchedProcess(
        launcher=launcher,
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local_world_size,
        num_nodes=_number("GROUP_WORLD_SIZE", environ, -(-world_size // local_world_size)),
        node_rank=_number("GROUP_RANK", environ, 0),
        address=address,
        port=port,
    )
    return _checked(process, f"{variables.rank}={rank} and {variables.world_size}={world_size}")


def _number(name: str, environ: Mapping[str, str], default: int) -> int:
    return integer(name, environ) if name in environ else default


def _meeting_point(environ: Mapping[str, str]) -> tuple[str, int]:
    if not environ.get("MASTER_ADDR") or not environ.get("MASTER_PORT"):
        raise UserError(
            "MASTER_ADDR and MASTER_PORT are not set: they are the host of rank 0 and a free port of it, "
            "the same for all processes"
        )
    return environ["MASTER_ADDR"], integer("MASTER_PORT", environ)


def _is_srun_task(environ: Mapping[str, str]) -> bool:
    if "SLURM_PROCID" not in environ:
        return False
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if step.isdigit() and int(step) in _SLURM_SPECIAL_STEPS:
        return False
    return bool(step) or "SLURM_STEP_NUM_TASKS" in environ or environ["SLURM_PROCID"] != "0"


def _from_slurm(environ: Mapping[str, str]) -> LaunchedProcess:
    rank = integer("SLURM_PROCID", environ)
    world_size = integer("SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS", environ)
    num_nodes = _number("SLURM_STEP_NUM_NODES", environ, _number("SLURM_NNODES", environ, 1))
    node_rank = _number("SLURM_NODEID", environ, 0)
    local_rank = integer("SLURM_LOCALID", environ)
    tasks = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "")
    local_world_size = tasks[node_rank] if node_rank < len(tasks) else -(-world_size // max(1, num_nodes))
    process = LaunchedProcess(
        launcher="srun",
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=max(local_world_size, local_rank + 1),
        num_nodes=num_nodes,
        address=environ.get("MASTER_ADDR") or _first_host(environ, num_nodes),
        port=integer("MASTER_PORT", environ) if environ.get("MASTER_PORT") else _slurm_port(environ),
        node_rank=node_rank,
    )
    return _checked(process, f"SLURM_PROCID={rank} and a step of {world_size} tasks")


def _tasks_per_node(text: str) -> list[int]:
    """Parse SLURM's ``2(x3),1``: 2, 2, 2, 1; empty for another form."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part.strip())
        if not match:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _first_host(environ: Mapping[str, str], num_nodes: int) -> str:
    """First host of SLURM's list of hosts, such as ``gpu[03-05,9],cpu1``."""
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST")
    if num_nodes == 1 or not hosts:
        return "127.0.0.1"
    return re.split(r"[,\s]", re.sub(r"\[([^],-]+)[^]]*\]", r"\1", hosts))[0]


def _slurm_port(environ: Mapping[str, str]) -> int:
    """A port that differs between the steps that run on one machine."""
    job = int("".join(re.findall(r"\d", environ.get("SLURM_JOB_ID", "")))[-9:] or 0)
    step = int("".join(re.findall(r"\d", environ.get("SLURM_STEP_ID", "")))[-9:] or 0)
    return _DEFAULT_PORT + (31 * job + step) % _PORTS


def _checked(process: LaunchedProcess, values: str) -> LaunchedProcess:
    if process.rank >= process.world_size:
        raise UserError(f"{values}: ranks are numbers from 0 to the number of processes minus 1")
    return process
