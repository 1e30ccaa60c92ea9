"""Functions that run on the nodes of a Ray cluster.

Ray sends them as code: a node without afictl can say so, and the processes of Ray import neither afictl nor torch.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from afictl.comparison.experiment.run_process import EXIT_INTERRUPTED, RunProcess, RunTask
from afictl.run_folder import RESULT

_VERSIONS = """
import json
from importlib.metadata import version
from afictl import __version__
print(json.dumps({"afictl": __version__, "torch": version("torch")}))
"""


class NodeRequirements(TypedDict):
    """Properties that a node has in common with the machine of the command."""

    token_file: str
    """File in the output folder."""
    token: str
    """Its content."""
    inputs: list[str]
    """Files and folders that the runs read."""
    versions: dict[str, str]
    """By package."""


def installed_versions() -> dict[str, str]:
    """Versions of afictl and torch that a new Python process on this machine imports, by package.

    Raises:
        ImportError: one is absent.
    """
    process = subprocess.run([sys.executable, "-c", _VERSIONS], capture_output=True, text=True)
    if process.returncode:
        raise ImportError((process.stderr.strip() or "no reason").splitlines()[-1])
    versions: dict[str, str] = json.loads(process.stdout)
    return versions


def find_mismatch(requirements: NodeRequirements) -> str:
    """The first requirement that this node does not meet; empty if it meets all."""
    folder = os.path.dirname(requirements["token_file"])
    try:
        versions = installed_versions()
    except ImportError as error:
        return f"{sys.executable}: {error}"
    for package, version in requirements["versions"].items():
        if versions[package] != version:
            return f"{package} is {versions[package]}, and {version} on the machine of the command"
    try:
        token = Path(requirements["token_file"]).read_text()
    except OSError:
        token = ""
    if token != requirements["token"]:
        return f"{folder}: not the folder of the command; choose an --output that all nodes share"
    if not os.access(folder, os.W_OK):
        return f"{folder}: cannot be written to"
    absent = [path for path in requirements["inputs"] if not os.path.exists(path)]
    return f"{absent[0]}: absent; all nodes need it" if absent else ""


def train_on_node(task: RunTask, log: str, threads: int, requirements: NodeRequirements) -> str:
    """Train a run in a process of its own and return its error; empty for success.

    A run that another command has finished, or trains, is left alone.

    Args:
        task: the run, with absolute paths.
        log: file that the output is appended to.
        threads: number of threads.
        requirements: checked once more, as the node may be new.

    Raises:
        InterruptedError: the process was told to end, as by the shutdown of the node; the run can be continued.
    """
    if os.path.exists(os.path.join(task["folder"], RESULT)):  # of another command
        return ""
    if mismatch := find_mismatch(requirements):
        return f"node {platform.node()}: {mismatch}"
    with RunProcess(task, {"OMP_NUM_THREADS": str(threads)}, Path(log)) as process:
        failure = process.failure()
        if process.wait() in (EXIT_INTERRUPTED, -signal.SIGTERM):
            raise InterruptedError(f"stopped by a signal on node {platform.node()}")
    return failure
