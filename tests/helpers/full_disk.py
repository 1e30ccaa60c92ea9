"""Simulations of a full disk, which need no rights, and of a killed process."""

import subprocess
import sys
from pathlib import Path

import pytest

from afictl.files import temporary_path

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def fill_disk_for(path: Path) -> None:
    """Make the next write of ``path`` by this process fail: its draft becomes a link to Linux's full device."""
    temporary_path(path).symlink_to("/dev/full")


def killed_draft(path: Path) -> Path:
    """The name of a draft of ``path`` by a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return temporary_path(path).with_suffix(f".{process.pid}")
