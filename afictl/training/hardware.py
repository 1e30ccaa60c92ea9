"""Where training runs: devices, machines, number format and the seed, as Lightning Fabric takes them."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric

from afictl.errors import UserError


@dataclass(frozen=True)
class Hardware:
    """What ``--devices``, ``--nodes`` and ``--precision`` say."""

    devices: str = "auto"
    nodes: int = 1
    precision: Any = "32-true"


def launch(hardware: Hardware = Hardware()) -> Fabric:
    """Start one process for each device and return its ``Fabric``.

    With several devices the same command line is started again for the other ranks, so nothing before this call
    may write files or ask questions.

    Raises:
        UserError: devices or precision that do not exist here.
    """
    count: Any = int(hardware.devices) if hardware.devices.isdigit() else hardware.devices
    warnings.filterwarnings("ignore", message="The .srun. command is available")
    try:
        fabric = Fabric(devices=count, num_nodes=hardware.nodes, precision=hardware.precision)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--devices {hardware.devices} --precision {hardware.precision}: {error}") from None
    fabric.launch()
    return fabric


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make every random draw of a training step a function of seed, step and rank.

    So a resumed run needs no saved generator states, and two runs that differ in one module draw the same numbers.
    """
    torch.manual_seed(((seed * 1_000_003 + step) * 65_536 + rank) % 2**63)
