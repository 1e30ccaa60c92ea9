"""Processes that a command starts for the other ranks of its machine, and the end of all after one that fails."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

from afictl.launchers import PARENT, LaunchedProcess
from afictl.training import rendezvous

_POLL_SECONDS = 1.0
_EXIT_DELAY_SECONDS = 10.0
_CHILD_EXIT_SECONDS = 15.0
_EXIT_LIMIT_SECONDS = 40.0
"""Limit of the exit itself: of the shutdown of loader processes, children and connections."""
_LOST_CHILD_SECONDS = 60.0
"""Within this time after the end of a child its parent ends too."""


def start_children(process: LaunchedProcess) -> dict[int, subprocess.Popen[bytes]]:
    """Start this command line for the other ranks of this machine; returns the processes by rank."""
    common = {
        "WORLD_SIZE": process.world_size,
        "LOCAL_WORLD_SIZE": process.local_world_size,
        "GROUP_WORLD_SIZE": process.num_nodes,
        "GROUP_RANK": process.node_rank,
        "MASTER_ADDR": process.address,
        "MASTER_PORT": process.port,
        PARENT: os.getpid(),
    }
    children = {}
    for local_rank in range(1, process.local_world_size):
        rank = process.rank + local_rank
        variables = {**common, "RANK": rank, "LOCAL_RANK": local_rank}
        environ = os.environ | {name: str(value) for name, value in variables.items()}
        children[rank] = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=environ)
    return children


def wait_for(children: list[subprocess.Popen[bytes]]) -> None:
    """Leave no process behind: wait for the children, and kill those that do not end."""
    deadline = time.monotonic() + _CHILD_EXIT_SECONDS
    for child in children:
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        if child.poll() is None:
            child.kill()


def limit_exit(exits: threading.Event, rank: int) -> None:
    """End this process if its exit blocks, as on a loader process that does not end."""
    exits.wait()
    time.sleep(_EXIT_LIMIT_SECONDS)
    print(f"error: the exit of process {rank} was blocked", file=sys.stderr, flush=True)
    os._exit(1)


def exit_after_lost_child(children: dict[int, subprocess.Popen[bytes]]) -> None:
    """End this process if a child has failed and the main thread does not notice, as in a collective of NCCL."""
    while all(child.poll() in (None, 0) for child in children.values()):
        time.sleep(_POLL_SECONDS)
    time.sleep(_LOST_CHILD_SECONDS)
    codes = {rank: child.poll() for rank, child in children.items()}
    reasons = [f"process {rank}: {rendezvous.describe_exit(code)}" for rank, code in codes.items() if code]
    print(f"error: {'; '.join(reasons)}", file=sys.stderr, flush=True)
    for child in children.values():
        child.kill()
    os._exit(1)


def exit_after_parent(parent: int) -> None:
    """End this process soon after the parent, rank 0 of the machine.

    A rank 0 that fails reports it to the other ranks where it can. Where it cannot, as after SIGKILL, they might block
    in a collective until its timeout, half an hour by default.
    """
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    time.sleep(_EXIT_DELAY_SECONDS)  # for the error messages of this process
    os._exit(1)
