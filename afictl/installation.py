"""Check of this installation: packages, devices, memory, processors and free space, in plain words.

Every check works where torch cannot be imported.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from afictl import __version__
from afictl.errors import one_line
from afictl.extras import EXTRAS, install_command
from afictl.machine import SHARED_MEMORY, SHARED_MEMORY_ADVICE, core_limit, machine_memory, usable_cores

_LEAST_SHARED_BYTES = 500e6
_LEAST_FREE_BYTES = 2e9
"""A run of a large detector writes weights and training state of a gigabyte."""
_TORCHVISION_OFFSET = 15
"""torchvision 0.(k + 15) belongs to torch 2.k."""
_REINSTALL = "pip install --upgrade --force-reinstall torch torchvision"


class Finding(NamedTuple):
    """A row of the report."""

    subject: str
    value: str
    fault: str = ""
    """What is wrong and how to mend it; empty if nothing is."""
    note: str = ""
    """Advice where nothing is wrong."""


def check_installation() -> Iterator[Finding]:
    """All findings: versions, torch and torchvision, devices, optional parts, memory, processors, free space."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from _packages()
    yield from _torch()
    yield from _optional_parts()
    yield from _machine()
    yield from _free_space()


def _packages() -> Iterator[Finding]:
    """afictl and the packages that it requires."""
    try:
        requirements = [Requirement(text) for text in metadata.requires("afictl") or ()]
    except metadata.PackageNotFoundError:
        note = "not installed as a package, so that the versions of its packages are not checked"
        yield Finding("afictl", __version__, note=note)
        return
    yield Finding("afictl", __version__)
    for requirement in requirements:
        if not (requirement.marker and "extra" in str(requirement.marker)):
            yield _package(requirement)


def _package(requirement: Requirement) -> Finding:
    """The installed version of a package, and whether it is in the required range."""
    version = _version(requirement.name)
    if version is None:
        return Finding(requirement.name, "not installed", f"pip install '{requirement}'")
    if not requirement.specifier.contains(version, prereleases=True):
        fault = f"afictl needs {requirement.specifier}: pip install --upgrade '{requirement}'"
        return Finding(requirement.name, version, fault)
    return Finding(requirement.name, version)


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _torch() -> Iterator[Finding]:
    """Whether torch and torchvision can be imported and fit together, and the devices."""
    try:
        import torch
    except Exception as error:  # a damaged library fails with errors of many types
        yield Finding("torch", "cannot be imported", f"{_reason(error)}; {_REINSTALL}")
        yield Finding("devices", "unknown without torch")
        return
    yield _pair(str(torch.__version__))
    yield _devices()


def _pair(torch_version: str) -> Finding:
    """Whether torchvision belongs to this version of torch, and its compiled operators work."""
    subject = "torch with torchvision"
    version = _version("torchvision")
    expected = _torchvision_of(torch_version)
    if version and expected and not version.startswith(expected):
        fault = f"torch {torch_version} needs torchvision {expected}*, not {version}: {_REINSTALL}"
        return Finding(subject, "versions do not fit", fault)
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # an operator that is not registered raises RuntimeError
        return Finding(subject, "operators of torchvision fail", f"{_reason(error)}; {_REINSTALL}")
    return Finding(subject, "fit together")


def _torchvision_of(torch_version: str) -> str:
    """Beginning of the version of torchvision that belongs to a version of torch; empty if it is not known."""
    minor = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(minor[1]) + _TORCHVISION_OFFSET}." if minor else ""


def _devices() -> Finding:
    import torch

    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    if names:
        return Finding("devices", ", ".join(f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB" for gpu in names))
    if Path("/dev/nvidia0").exists():
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
        fault = f"a GPU of NVIDIA is present, but torch (built for {build}) finds none: see nvidia-smi, or https://pytorch.org"
        return Finding("devices", "CPU", fault)
    return Finding("devices", "CPU", note="no GPU: tiny presets and small data are quick enough")


def _optional_parts() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, version in versions.items() if version is None]
        installed = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
        note = f"without {', '.join(missing)}: {install_command(extra)}" if missing else ""
        yield Finding(f"optional: {extra}", installed or "not installed", note=note)


def _machine() -> Iterator[Finding]:
    yield Finding("memory", f"{machine_memory() / 1e9:.1f} GB")
    cores, limit = usable_cores(), core_limit()
    note = f"the container may use the time of {limit:g}" if limit < cores else ""
    yield Finding("processor cores", str(cores), note=note)


def _free_space() -> Iterator[Finding]:
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        fault = f"too little for reading processes: {SHARED_MEMORY_ADVICE}" if free < _LEAST_SHARED_BYTES else ""
        yield Finding("free shared memory", f"{free / 1e9:.1f} GB", fault)
    yield _folder("free in this folder", Path.cwd())
    try:
        yield _folder("free for temporary files", Path(tempfile.gettempdir()))
    except OSError as error:  # no folder of the system's list is writable
        fault = f"{one_line(error.strerror)}: free some space or set TMPDIR to another folder"
        yield Finding("free for temporary files", "none", fault)


def _folder(subject: str, folder: Path) -> Finding:
    """Free space of a folder, and whether it is writable and enough."""
    free = shutil.disk_usage(folder).free
    value = f"{free / 1e9:.1f} GB ({folder})"
    if not os.access(folder, os.W_OK):
        return Finding(subject, value, "not writable")
    return Finding(subject, value, "free some space" if free < _LEAST_FREE_BYTES else "")


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error):.200}"
