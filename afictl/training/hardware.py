"""Where training runs: devices, machines, number format and the seed, as Lightning Fabric takes them."""

import atexit
import os
import threading
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import distributed

from afictl.data.loader import require_even_share
from afictl.errors import UserError, one_line

_LOOK, _GRACE = 1.0, 10.0  # seconds


@dataclass(frozen=True)
class HardwareSettings:
    """What ``--devices``, ``--nodes`` and ``--precision`` say."""

    devices: str = "auto"
    nodes: int = 1
    precision: Any = "32-true"

    @property
    def processes(self) -> int:
        """Their number over all machines; 1 as long as it is left to the machine."""
        return max(1, int(self.devices) * self.nodes) if self.devices.isdigit() else 1


def launch(hardware: HardwareSettings = HardwareSettings(), batch_sizes: Iterable[int] = ()) -> Fabric:
    """Start one process for each device and return its ``Fabric``.

    ``batch_sizes`` are checked first: each must be a multiple of the number of processes that was asked for.

    With several devices the same command line is started again for the other ranks, so nothing before this call
    may write files or ask questions.

    Raises:
        UserError: devices or precision that do not exist here, or a batch that the devices cannot share.
    """
    for size in batch_sizes:
        require_even_share(size, hardware.processes)
    count: Any = int(hardware.devices) if hardware.devices.isdigit() else hardware.devices
    warnings.filterwarnings("ignore", message="The .srun. command is available")
    try:
        fabric = Fabric(devices=count, num_nodes=hardware.nodes, precision=hardware.precision)
        _end_with_the_first()
        fabric.launch()
        atexit.register(leave_process_group)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        reason = one_line(error)
        raise UserError(f"--devices {hardware.devices} --precision {hardware.precision}: {reason}") from None
    return fabric


def leave_process_group() -> None:
    """Take this process out of the group of ranks, if there is one.

    A process that ends within a group on CPUs (gloo) is aborted now and then, with all its work done. Fabric sees to
    the groups on GPUs.
    """
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()


def _end_with_the_first() -> None:
    """Let a process that was started for a further rank end soon after the one that started it.

    The first tells the others of a mistake where it can. Where it cannot, as when it is killed, a GPU of another one
    would wait in a collective operation for as long as that may take, half an hour by default.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(starter: int) -> None:
    while os.getppid() == starter:
        time.sleep(_LOOK)
    time.sleep(_GRACE)  # in which it may tell what it met itself
    os._exit(1)


def hardware_record(fabric: Fabric) -> dict[str, Any]:
    """What a run records of its hardware."""
    return {"precision": fabric.strategy.precision.precision, "processes": fabric.world_size}


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make every random draw of a training step a function of seed, step and rank.

    So a resumed run needs no saved generator states, and two runs that differ in one module draw the same numbers.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 65_536 + rank) % 2**63)
