"""The process group of a training: its processes join, and tell each other why they end.

Every process connects to a key-value store that rank 0 or torchrun's agent serves. A process that fails leaves the
reason there, as the connections of a collective only show that some process is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

import torch
from torch import distributed

from afictl.errors import UserError, one_line
from afictl.launchers import LaunchedProcess

JOIN_TIMEOUT = "AFICTL_JOIN_TIMEOUT"
"""Environment variable: seconds that a process waits for the others of its group to start."""
_DEFAULT_JOIN_SECONDS = 600.0
_STORE_TIMEOUT = timedelta(seconds=30)
_NOTICE_SECONDS, _NOTICE_SECONDS_ONE_MACHINE = 1.0, 20.0
"""A shorter wait is not told; processes of one machine take seconds to import their modules."""
_POLL_SECONDS = 0.1
_LOSS_SECONDS = 3.0
"""Within this time every process that is left notices that another one is gone."""
_WITHOUT_MESSAGE = "it ended without a message"


class Failure(NamedTuple):
    """The end of a process of a group."""

    rank: int
    reason: str
    is_announced: bool
    """Whether the process itself gave the reason."""


class Group:
    """The joined process group of this process.

    Args:
        process: position in the group.
        server: connection to the key-value store of the group.
        children: processes that this one started, by rank.
    """

    def __init__(
        self, process: LaunchedProcess, server: distributed.TCPStore, children: dict[int, subprocess.Popen[bytes]]
    ) -> None:
        self.process = process
        self.children = children
        self._server = server
        self._store = distributed.PrefixStore(f"afictl/{_attempt()}", server)

    def announce_failure(self, reason: str) -> bool:
        """Leave the reason why this process ends to the others; False if none of them can read it."""
        if not self._is_store_served():
            return False
        try:
            self._store.set(_failure_key(self.process.rank), reason)
        except RuntimeError:
            return False
        return True

    def find_failure(self) -> Failure:
        """The process that has ended.

        A process that was killed leaves no message; it is the one that does not answer.
        """
        other_ranks = [rank for rank in range(self.process.world_size) if rank != self.process.rank]
        deadline = time.monotonic() + _LOSS_SECONDS
        with suppress(RuntimeError):
            while self._is_store_served():
                self._store.set(_answer_key(self.process.rank), "")
                for rank in other_ranks:
                    if self._store.check([_failure_key(rank)]):
                        return Failure(rank, self._store.get(_failure_key(rank)).decode(), True)
                    if code := self._exit_code(rank):
                        return Failure(rank, describe_exit(code), False)
                if time.monotonic() > deadline:
                    silent = [rank for rank in other_ranks if not self._store.check([_answer_key(rank)])]
                    return Failure((silent or other_ranks)[0], _WITHOUT_MESSAGE, False)
                time.sleep(_POLL_SECONDS)
        return Failure(0, _WITHOUT_MESSAGE, False)  # the process that served the store

    def _is_store_served(self) -> bool:
        """Whether the process that serves the store runs; torch prints a stack of C++ about one that has ended."""
        try:
            socket.create_connection((self._server.host, self._server.port), timeout=5).close()
        except OSError:
            return False
        return True

    def _exit_code(self, rank: int) -> int | None:
        child = self.children.get(rank)
        return child.poll() if child else None


_group: Group | None = None  # like torch's default process group, one of the process


def current_group() -> Group | None:
    """The group that this process has joined with ``join``; None outside of a group."""
    return _group


def join_seconds() -> float:
    """Seconds to wait for the other processes.

    Raises:
        UserError: the environment variable is not a positive number.
    """
    text = os.environ.get(JOIN_TIMEOUT)
    try:
        seconds = _DEFAULT_JOIN_SECONDS if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e7:
        raise UserError(f"{JOIN_TIMEOUT}={text}: set a number of seconds above 0")
    return seconds


def host_store(port: int) -> distributed.TCPStore:
    """Serve the store on ``port`` of this machine, or on a free port for 0.

    Raises:
        UserError: another program uses the port.
    """
    try:
        return distributed.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=_STORE_TIMEOUT)
    except (RuntimeError, OSError) as error:
        reason = "is in use" if "address already in use" in str(error).lower() else f"fails ({one_line(error):.100})"
        raise UserError(f"MASTER_PORT={port}: the port {reason} on this machine; choose another one") from None


def join(
    process: LaunchedProcess,
    device: torch.device,
    server: distributed.TCPStore | None = None,
    children: dict[int, subprocess.Popen[bytes]] | None = None,
) -> None:
    """Wait until all processes have started, and create torch's default process group.

    Args:
        process: position in the group.
        device: of this process; NCCL connects GPUs, gloo CPUs.
        server: the store, if this process serves it.
        children: processes that this one started, by rank.

    Raises:
        UserError: some processes do not start in time, or describe another group.
    """
    global _group
    deadline = time.monotonic() + join_seconds()
    client = server or _connect(process, deadline)
    group = Group(process, client, children or {})
    _check_in(group, deadline)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"torch/{_attempt()}", client),
        rank=process.rank,
        world_size=process.world_size,
        device_id=device if device.type == "cuda" else None,
    )
    _group = group


def leave() -> None:
    """Destroy torch's default process group, if there is one.

    A process that exits within a gloo group occasionally aborts, with all its work done.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def describe_exit(code: int) -> str:
    """Exit code of a process in words, as ``subprocess`` gives it: negative for a signal."""
    if code >= 0:
        return f"it ended with exit code {code}"
    with suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"


def _attempt() -> str:
    """Number of times that torchrun has restarted the group; its store outlives the processes."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _failure_key(rank: int) -> str:
    return f"failure/{rank}"


def _answer_key(rank: int) -> str:
    return f"answer/{rank}"


def _connect(process: LaunchedProcess, deadline: float) -> distributed.TCPStore:
    """Connect to the store; torch's own attempts would print a warning each."""
    is_served_by_torchrun = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if process.rank == 0 and not is_served_by_torchrun:
        return host_store(process.port)
    notice = _Notice(process)
    while True:
        try:
            socket.create_connection((process.address, process.port), timeout=5).close()
            break
        except OSError as error:
            reason = error.strerror or str(error)
            notice.show(f"rank 0 ({reason})")
            if time.monotonic() > deadline:
                raise _timeout_error(process, f"rank 0 does not answer ({reason})") from None
        time.sleep(_POLL_SECONDS)
    return distributed.TCPStore(
        process.address, process.port, is_master=False, wait_for_workers=False, timeout=_STORE_TIMEOUT
    )


def _check_in(group: Group, deadline: float) -> None:
    """Register this process, and wait until all others are registered."""
    process, store, notice = group.process, group._store, _Notice(group.process)
    try:
        if process.rank == 0:
            store.set("world_size", str(process.world_size))
        elif (world_size := int(store.get("world_size"))) != process.world_size:
            raise _group_error(f"rank 0 expects {world_size} processes and rank {process.rank} {process.world_size}")
        if store.add(f"rank/{process.rank}", 1) > 1:
            raise _group_error(f"two processes have rank {process.rank}; NODE_RANK differs between machines")
        while missing := [rank for rank in range(process.world_size) if not store.check([f"rank/{rank}"])]:
            for rank, child in group.children.items():
                if rank in missing and child.poll() is not None:
                    raise UserError(f"process {rank} did not start: {describe_exit(child.returncode)}")
            notice.show(_describe_ranks(missing, process))
            if time.monotonic() > deadline:
                raise _timeout_error(process, f"missing are {_describe_ranks(missing, process)}")
            time.sleep(_POLL_SECONDS)
    except RuntimeError as error:
        raise _group_error(f"the connection to rank 0 was lost ({one_line(error):.100})") from None
    notice.end()


def _describe_ranks(ranks: list[int], process: LaunchedProcess) -> str:
    """``ranks`` in words, with the number of their machines if there are several."""
    names = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    text = f"{len(ranks)} of {process.world_size} processes (rank {names})"
    if process.num_nodes == 1:
        return text
    nodes = {rank // process.local_world_size for rank in ranks}
    return f"{len(nodes)} of {process.num_nodes} machines, {text}"


def _group_error(reason: str) -> UserError:
    return UserError(f"the processes of this command do not fit together: {reason}")


def _timeout_error(process: LaunchedProcess, reason: str) -> UserError:
    return UserError(
        f"waited {join_seconds():g} s at {process.address}:{process.port} for the other processes: {reason}; "
        f"start the command on every machine, or wait longer with {JOIN_TIMEOUT}=SECONDS"
    )


class _Notice:
    """A line on stderr about a wait, once for each machine."""

    def __init__(self, process: LaunchedProcess) -> None:
        self._process = process
        self._start = time.monotonic()
        self._shown = process.local_rank > 0

    def show(self, missing: str) -> None:
        """Say what is waited for, unless that was said already or the wait is short."""
        seconds = _NOTICE_SECONDS if self._process.num_nodes > 1 else _NOTICE_SECONDS_ONE_MACHINE
        if self._shown or time.monotonic() < self._start + seconds:
            return
        self._shown = True
        place = f"{self._process.address}:{self._process.port}"
        print(
            f"waiting at {place} for {missing}, up to {join_seconds():g} s ({JOIN_TIMEOUT})",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        """Say that the wait is over."""
        if self._shown and self._process.local_rank == 0:
            print(f"all {self._process.world_size} processes have started", file=sys.stderr, flush=True)
