"""A full disk for the next file of a name, without the rights or the time to make one."""

import os
from pathlib import Path

import pytest

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


def fill_disk_for(path: Path) -> None:
    """Let this process find no space when it writes ``path`` anew: the draft becomes a link to Linux's full device."""
    path.with_name(f".{path.name}.{os.getpid()}").symlink_to("/dev/full")
