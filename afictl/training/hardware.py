"""Devices, machines and number format of a training, and the launch of its processes."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import ClusterEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException

from afictl.data.loader import require_even_share
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, one_line
from afictl.launchers import OWN_LAUNCHER, PARENT, LaunchedProcess, integer, launched_process, require_single_process
from afictl.training import rendezvous
from afictl.training.child_processes import (
    exit_after_lost_child,
    exit_after_parent,
    limit_exit,
    start_children,
    wait_for,
)
from afictl.training.precision import AUTO, FP32, measure_precision


@dataclass(frozen=True)
class HardwareSettings:
    """Values of ``--devices``, ``--nodes``, ``--precision`` and ``--compile``."""

    devices: str = "auto"
    nodes: int | None = None
    """None: one machine, or those of the launcher."""
    precision: str = FP32
    """``auto``: the faster of two on the device of rank 0, see ``measure_precision``."""
    compile: bool = False
    """Compile the parts that gain by it, see ``compilation``."""

    @property
    def num_processes(self) -> int:
        """Processes on all machines."""
        process = launched_process()
        return process.world_size if process else self.local_devices * (self.nodes or 1)

    @property
    def local_devices(self) -> int:
        """Devices of this machine that are asked for: one for each process."""
        if self.devices == "auto":
            return max(1, torch.cuda.device_count())
        return int(self.devices) if self.devices.isdigit() else len(self.devices.split(","))


class LaunchedFabric(Fabric):
    """``Fabric`` of ``launch``."""

    precision_note = ""
    """Log line on the choice of ``--precision auto``; empty without a choice."""
    compiles = False
    """Value of ``--compile``."""

    def print_precision_note(self) -> None:
        """Print the line, for a command that does not log it."""
        if self.precision_note:
            self.print(self.precision_note)


def precision_note(fabric: Fabric) -> str:
    """Log line on the choice of ``--precision auto``; empty without a choice."""
    return fabric.precision_note if isinstance(fabric, LaunchedFabric) else ""


def compiles(fabric: Fabric) -> bool:
    """Whether ``fabric`` was launched with ``--compile``."""
    return isinstance(fabric, LaunchedFabric) and fabric.compiles


def launch(settings: HardwareSettings = HardwareSettings(), batch_sizes: Iterable[int] = ()) -> LaunchedFabric:
    """Start one process for each device, or join those of torchrun, srun or mpirun, and return the ``Fabric``.

    With several devices the same command line is started again for the other ranks: nothing before this call may
    write files or prompt.

    Args:
        settings: devices, machines and number format.
        batch_sizes: each must be a multiple of the requested number of processes; checked before the launch.

    Raises:
        UserError: devices or precision that this machine lacks, settings that contradict the launcher, processes that
            do not start, or a batch size that the processes cannot share evenly.
    """
    launched = launched_process()
    if launched:
        _require_agreement(settings, launched)
    for batch_size in batch_sizes:
        require_even_share(batch_size, settings.num_processes)
    process = launched or _first_process(settings)
    fabric = _fabric(settings, process)
    if process.world_size > 1:
        _join(process, fabric, starts_children=launched is None)
    return _launch_with_precision(fabric, settings, process)


def launch_single(precision: str = FP32) -> LaunchedFabric:
    """The ``Fabric`` of a command that uses one process on the first device.

    Raises:
        UserError: a launcher started several processes, or a precision that this machine lacks.
    """
    if not require_single_process():
        raise SystemExit(0)
    settings = HardwareSettings("1", precision=precision)
    process = _first_process(settings)
    return _launch_with_precision(_fabric(settings, process), settings, process)


def _launch_with_precision(
    fabric: LaunchedFabric, settings: HardwareSettings, process: LaunchedProcess
) -> LaunchedFabric:
    """Launch ``fabric``, or for ``auto`` one like it with the precision that rank 0 measures to be faster."""
    if settings.precision == AUTO:
        device = fabric.device
        times = run_on_rank_zero(lambda: measure_precision(device), process.rank, process.world_size)
        fabric = _fabric(replace(settings, precision=times.faster), process)
        fabric.precision_note = times.note
    fabric.launch()
    return fabric


def hardware_record(fabric: Fabric) -> dict[str, str | int]:
    """The hardware settings that a run records.

    The threads of a process only where it computes on a CPU, ``compile`` only where it is true.
    """
    threads = {"threads": torch.get_num_threads()} if fabric.device.type == "cpu" else {}
    compilation = {"compile": True} if compiles(fabric) else {}
    return {"precision": fabric.strategy.precision.precision, "processes": fabric.world_size, **threads, **compilation}


class _GroupEnvironment(ClusterEnvironment):
    """Fabric's view of the process; Fabric's own detection takes every shell of a SLURM job for a task of srun."""

    def __init__(self, process: LaunchedProcess, local_rank: int) -> None:
        super().__init__()
        self._process = process
        self._local_rank = local_rank

    @property
    def creates_processes_externally(self) -> bool:
        """Fabric starts no processes."""
        return True

    @property
    def main_address(self) -> str:
        """Host of rank 0."""
        return self._process.address

    @property
    def main_port(self) -> int:
        """Port of rank 0."""
        return self._process.port

    @staticmethod
    def detect() -> bool:
        """Never chosen by Fabric itself."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return self._process.world_size

    def set_world_size(self, size: int) -> None:
        """The launcher determines it."""

    def global_rank(self) -> int:
        """Rank."""
        return self._process.rank

    def set_global_rank(self, rank: int) -> None:
        """The launcher determines it."""

    def local_rank(self) -> int:
        """Index of the device."""
        return self._local_rank

    def node_rank(self) -> int:
        """Number of the machine."""
        return self._process.node_rank


def _first_process(settings: HardwareSettings) -> LaunchedProcess:
    """The first process on this machine, which starts the others."""
    nodes, local_world_size = settings.nodes or 1, settings.local_devices
    node_rank, address, port = 0, "127.0.0.1", 0
    if nodes > 1:
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if not os.environ.get(name)]
        if missing:
            raise UserError(
                f"--nodes {nodes}: set the environment variables MASTER_ADDR and MASTER_PORT (host and free port of "
                f"the first machine) and NODE_RANK (0 to {nodes - 1}) on each; not set: {', '.join(missing)}"
            )
        node_rank, port = (integer(name, os.environ) for name in ("NODE_RANK", "MASTER_PORT"))
        address = os.environ["MASTER_ADDR"]
        if node_rank >= nodes:
            raise UserError(f"--nodes {nodes}: NODE_RANK is {node_rank}; it is a number from 0 to {nodes - 1}")
    return LaunchedProcess(
        launcher=OWN_LAUNCHER,
        rank=node_rank * local_world_size,
        world_size=nodes * local_world_size,
        local_rank=0,
        local_world_size=local_world_size,
        num_nodes=nodes,
        node_rank=node_rank,
        address=address,
        port=port,
    )


def _require_agreement(settings: HardwareSettings, process: LaunchedProcess) -> None:
    """Refuse flags that contradict the launcher, on all ranks alike."""
    contradictions = {
        f"--devices {settings.devices}": settings.devices != "auto"
        and settings.local_devices != process.local_world_size
        and f"{process.local_world_size} processes on this machine",
        f"--nodes {settings.nodes}": settings.nodes is not None
        and settings.nodes != process.num_nodes
        and f"processes on {process.num_nodes} machine{'s' * (process.num_nodes > 1)}",
    }
    for flag, reason in contradictions.items():
        if reason:
            error = UserError(f"{flag}: {process.launcher} started {reason}; leave out {flag.split()[0]}")
            error.raised_on_all_ranks = True  # type: ignore[attr-defined]  # so that a single rank prints it
            raise error


def _fabric(settings: HardwareSettings, process: LaunchedProcess) -> LaunchedFabric:
    """Fabric of a process, not launched yet; for ``auto`` in fp32."""
    sees_one_gpu = process.launcher == "srun" and process.local_world_size > 1 == torch.cuda.device_count()
    local_rank, local_devices = (0, 1) if sees_one_gpu else (process.local_rank, process.local_world_size)
    devices: Any = settings.devices if "," in settings.devices else local_devices
    precision: Any = FP32 if settings.precision == AUTO else settings.precision  # Fabric's type is private
    try:
        fabric = LaunchedFabric(
            devices=devices,
            num_nodes=process.num_nodes,
            strategy="ddp" if process.world_size > 1 else "auto",
            precision=precision,
            plugins=[_GroupEnvironment(process, local_rank)],
        )
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        reason = one_line(error)
        raise UserError(f"--devices {settings.devices} --precision {settings.precision}: {reason}") from None
    fabric.compiles = settings.compile
    return fabric


def _join(process: LaunchedProcess, fabric: Fabric, starts_children: bool) -> None:
    """Start the other processes of this machine, unless a launcher did, and join all of them."""
    server, children = None, {}
    if starts_children:
        rendezvous.join_seconds()  # checked before there are children
        if process.rank == 0:
            server = rendezvous.host_store(process.port)
            process = replace(process, port=server.port)
        children = start_children(process)
        atexit.register(wait_for, list(children.values()))
        threading.Thread(target=exit_after_lost_child, args=(children,), daemon=True).start()
    elif PARENT in os.environ:
        threading.Thread(target=exit_after_parent, args=(int(os.environ[PARENT]),), daemon=True).start()
    exits = threading.Event()
    threading.Thread(target=limit_exit, args=(exits, process.rank), daemon=True).start()
    device = fabric.strategy.root_device
    fabric.strategy.accelerator.setup_device(device)  # type: ignore[union-attr]  # NCCL connects the current GPU
    atexit.register(rendezvous.leave)  # before the children are waited for
    rendezvous.join(process, device, server, children)
    atexit.register(exits.set)
