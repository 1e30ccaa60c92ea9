"""What keeps a file from being written: a full disk, without the rights or the time to make one; a killed process."""

import subprocess
import sys
from pathlib import Path

import pytest

from afictl.files import temporary_path

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def fill_disk_for(path: Path) -> None:
    """Let this process find no space when it writes ``path`` anew: the draft becomes a link to Linux's full device."""
    temporary_path(path).symlink_to("/dev/full")


def killed_draft(path: Path) -> Path:
    """The name of a draft of ``path`` whose process is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return temporary_path(path).with_suffix(f".{gone.pid}")
