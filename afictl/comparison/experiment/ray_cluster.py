"""Connection to Ray, started on this machine or a running cluster, and the nodes that can train runs."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

from afictl.comparison.experiment import ray_node, run_process
from afictl.comparison.experiment.ray_node import NodeRequirements
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.errors import UserError, format_error, one_line
from afictl.extras import import_optional
from afictl.files import temporary_path, write_text

_CONNECTION_SECONDS = 10.0
_CHECK_SECONDS = 120.0
"""Limit of the check of all nodes."""
_STORE_BYTES = 80 * 2**20
"""Of memory for objects, which runs have none of; nearly the least that Ray accepts."""
_SESSION_PARENT_LENGTH = 40
"""Longest path of the folder of Ray's session: the path of a socket in it has at most 107 characters."""
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # the system decides which process ends when memory runs out
}


@dataclass(frozen=True)
class Place:
    """Place of parallel runs: the devices of this machine, or of all nodes of a Ray cluster."""

    devices: str = "auto"
    """Number of runs at a time on one machine, with GPUs at most theirs; ``auto``: that of its GPUs, or 1."""
    address: str | None = None
    """``HOST:PORT`` of a cluster, or ``auto`` for that of this machine; None: Ray is started on this machine."""

    def check(self) -> None:
        """Check what takes no time.

        Raises:
            UserError: Ray is not installed, nothing answers at ``address``, or ``devices`` is neither a number nor
                ``auto``, or more than the GPUs of this machine.
        """
        import_optional("ray", "--spread")
        if self.devices != "auto" and not (self.devices.isdigit() and int(self.devices)):
            raise UserError(f"--devices {self.devices}: with --spread give a number of devices, or 'auto'")
        num_gpus = torch.cuda.device_count()
        if self.address is None and num_gpus and self.devices != "auto" and int(self.devices) > num_gpus:
            raise UserError(f"--devices {self.devices}: this machine has {num_gpus}")
        if self.address not in (None, "auto"):
            _require_answer(str(self.address))


@dataclass(frozen=True)
class Share:
    """CPUs and GPUs of one run."""

    cpus: float
    gpus: int

    @property
    def threads(self) -> int:
        """Number of threads of the run."""
        return max(1, int(self.cpus))

    def runs_on(self, node: Mapping[str, Any]) -> int:
        """Number of runs that a node can train at a time."""
        cpus, gpus = _resource(node, "CPU"), _resource(node, "GPU")
        return min(int(cpus / self.cpus), int(gpus) if self.gpus else int(cpus / self.cpus))


@contextmanager
def connection(place: Place) -> Iterator[ModuleType]:
    """Ray, connected to the cluster of ``place`` or started on this machine until the end of the block.

    Raises:
        UserError: as ``Place.check``, or Ray cannot be started or joined.
    """
    place.check()
    os.environ |= _VARIABLES
    ray = import_module("ray")
    worker: Any = import_module("ray._private.worker")
    worker._worker_logs_enabled = False  # reports on lost nodes, which have no other switch
    for module in (ray_node, run_process):
        if module.__name__ not in ray.cloudpickle.list_registry_pickle_by_value():
            ray.cloudpickle.register_pickle_by_value(module)
    with _start_options(place) as options, _kept_sigterm_handler():
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # of many types
            subject = "--spread" if place.address is None else f"--ray {place.address}"
            raise UserError(f"{subject}: {one_line(error)}") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def training_nodes(ray: ModuleType) -> list[Mapping[str, Any]]:
    """The nodes with CPUs that are alive and, if any node has GPUs, have GPUs."""
    nodes = [node for node in ray.nodes() if node["Alive"] and _resource(node, "CPU")]
    with_gpus = [node for node in nodes if _resource(node, "GPU") >= 1]
    return with_gpus or nodes


def equal_share(nodes: Sequence[Mapping[str, Any]], devices: str) -> Share:
    """The share of one run: a GPU, if there are any, and an equal part of the CPUs of the node with the fewest.

    All runs have the same number of threads, on which results depend.

    Raises:
        UserError: there is no node.
    """
    if not nodes:
        raise UserError("--ray: no node of the cluster has CPUs")
    gpus = [int(_resource(node, "GPU")) for node in nodes]
    limits = [max(1, number) if devices == "auto" else int(devices) for number in gpus]
    if all(gpus):
        limits = [min(pair) for pair in zip(limits, gpus, strict=True)]
    parts = [_resource(node, "CPU") / limit for node, limit in zip(nodes, limits, strict=True)]
    return Share(int(min(parts) * 10_000) / 10_000, int(all(gpus)))  # Ray counts ten-thousandths of a CPU


@contextmanager
def node_requirements(settings: ExperimentSettings) -> Iterator[NodeRequirements]:
    """Requirements of the runs of an experiment; inside the block there is a file to recognise the output folder by."""
    token = secrets.token_hex(16)
    file = temporary_path(settings.output / "nodes.json").absolute()
    sources = [source.interpolator for source in map(settings.initial_weights, settings.methods)]
    paths = [settings.data, settings.weights, settings.backbone_weights, *sources]
    inputs = [os.path.abspath(path) for path in paths if path and os.path.exists(path)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, token)
    try:
        yield {
            "token_file": str(file),
            "token": token,
            "inputs": inputs,
            "versions": ray_node.installed_versions(),
        }
    finally:
        file.unlink(missing_ok=True)


def check_nodes(ray: ModuleType, nodes: Sequence[Mapping[str, Any]], requirements: NodeRequirements) -> None:
    """Check the requirements on every node.

    Raises:
        UserError: a node does not meet one; names all such nodes.
    """
    affinity = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    find_mismatch = ray.remote(ray_node.find_mismatch)
    tasks = {
        find_mismatch.options(num_cpus=0, scheduling_strategy=affinity(node["NodeID"], soft=False)).remote(
            requirements
        ): node["NodeManagerHostname"]
        for node in nodes
    }
    finished = ray.wait(list(tasks), num_returns=len(tasks), timeout=_CHECK_SECONDS)[0]
    mismatches = []
    for task, host in tasks.items():
        try:
            mismatch = ray.get(task) if task in finished else f"no answer after {_CHECK_SECONDS:g} seconds"
        except ray.exceptions.RayError as error:
            mismatch = describe_error(error)
        if mismatch:
            mismatches.append(f"node {host}: {mismatch}")
    if mismatches:
        raise UserError("; ".join(dict.fromkeys(mismatches)))


def describe_error(error: Exception) -> str:
    """An error of Ray as one line: that of the function, or the first sentence of Ray's."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, InterruptedError):
        return str(cause)
    if isinstance(cause, OSError):
        return format_error(cause)
    if isinstance(cause, Exception):
        return f"unexpected {type(cause).__name__}: {one_line(cause)}"
    return one_line(error).partition(". ")[0]


def _require_answer(address: str) -> None:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        raise UserError(f"--ray {address}: give HOST:PORT of the head of the cluster, such as head:6379, or 'auto'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTION_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address}: no answer ({one_line(error)}); is the cluster running?") from None


@contextmanager
def _start_options(place: Place) -> Iterator[dict[str, Any]]:
    """Arguments of ``ray.init``; the folder of a Ray that is started, with logs and sockets, is removed at the end."""
    if place.address is not None:
        yield {"address": place.address}
        return
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="afictl-", dir=parent if len(parent) <= _SESSION_PARENT_LENGTH else "/tmp")
    try:
        yield {
            "address": "local",
            "num_cpus": torch.get_num_threads(),
            "num_gpus": torch.cuda.device_count(),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": folder,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _kept_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _resource(node: Mapping[str, Any], name: str) -> float:
    return float(node["Resources"].get(name, 0))
