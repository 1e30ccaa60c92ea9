"""Devices, machines and number format of a training, and the launch of its processes with Lightning Fabric."""

import atexit
import os
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import distributed

from afictl.data.loader import require_even_share
from afictl.errors import UserError, one_line

_POLL_SECONDS = 1.0
_EXIT_DELAY_SECONDS = 10.0


@dataclass(frozen=True)
class HardwareSettings:
    """Values of ``--devices``, ``--nodes`` and ``--precision``."""

    devices: str = "auto"
    nodes: int = 1
    precision: str = "32-true"

    @property
    def num_processes(self) -> int:
        """Processes on all machines; 1 if the number of devices is left to Fabric."""
        return max(1, int(self.devices) * self.nodes) if self.devices.isdigit() else 1


def launch(settings: HardwareSettings = HardwareSettings(), batch_sizes: Iterable[int] = ()) -> Fabric:
    """Start one process for each device and return its ``Fabric``.

    With several devices, Fabric starts the same command line again for the other ranks: nothing before this call may
    write files or prompt.

    Args:
        settings: devices, machines and number format.
        batch_sizes: each must be a multiple of the requested number of processes; checked before the launch.

    Raises:
        UserError: devices or precision that this machine lacks, or a batch size that the processes cannot share evenly.
    """
    for batch_size in batch_sizes:
        require_even_share(batch_size, settings.num_processes)
    devices = int(settings.devices) if settings.devices.isdigit() else settings.devices
    precision: Any = settings.precision  # Fabric's type of it is a private union of literals
    warnings.filterwarnings("ignore", message="The .srun. command is available")
    try:
        fabric = Fabric(devices=devices, num_nodes=settings.nodes, precision=precision)
        _exit_after_rank_zero()
        fabric.launch()
        atexit.register(leave_process_group)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        reason = one_line(error)
        raise UserError(f"--devices {settings.devices} --precision {settings.precision}: {reason}") from None
    return fabric


def leave_process_group() -> None:
    """Destroy the gloo process group, if there is one.

    A process that exits within a gloo group occasionally aborts, with all its work done. Fabric destroys NCCL groups.
    """
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def _exit_after_rank_zero() -> None:
    """In a process of another local rank, exit soon after the process of local rank 0, its parent.

    A rank 0 that fails reports it to the other ranks where it can. Where it cannot, as after SIGKILL, they would block
    in a collective until its timeout, half an hour by default.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_exit_after, args=(os.getppid(),), daemon=True).start()


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    time.sleep(_EXIT_DELAY_SECONDS)  # for the error messages of this process
    os._exit(1)


def hardware_record(fabric: Fabric) -> dict[str, str | int]:
    """The hardware settings that a run records."""
    return {"precision": fabric.strategy.precision.precision, "processes": fabric.world_size}
