"""A process that holds the locks of folders."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOLDER = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
from afictl.folder_lock import locked_folder

with ExitStack() as stack:
    for folder in sys.argv[1:]:
        stack.enter_context(locked_folder(Path(folder)))
    if os.fork():
        print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def locking_process(*folders: Path) -> Iterator[subprocess.Popen]:
    """A process that has locked ``folders``, with a fork such as a loader process, which outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, *map(str, folders)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # ends the fork
        process.stdout.close()
