"""Two or more processes on a machine without GPUs.

They are forks of a server that has imported the package, which takes seconds, and has computed nothing: threads of
libraries, such as hotcoco's, are dead in forks of a process that has used them.
"""

import multiprocessing

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from afictl.training import rendezvous

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch._dynamo", "afictl.cli.main", "afictl.training", "afictl.evaluation"])


def on_ranks(count, function, *arguments):
    """Call ``function(fabric, *arguments)`` in ``count`` new processes, and wait for their end."""
    strategy = DDPStrategy(start_method="forkserver")
    Fabric(accelerator="cpu", devices=count, strategy=strategy).launch(_call, function, *arguments)


def _call(fabric, function, *arguments):
    torch.set_num_threads(1)
    function(fabric, *arguments)
    rendezvous.leave()
