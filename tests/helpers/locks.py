"""A process that holds the locks of folders."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from afictl.folder_lock import LEASE_SECONDS

_HOLDER = """
import os, socket, sys
from contextlib import ExitStack
from pathlib import Path
from afictl import folder_lock

host = sys.argv[1]
folder_lock.LEASE_SECONDS, folder_lock._RENEWAL_SECONDS = float(sys.argv[2]), 0.1
if host:
    socket.gethostname = lambda: host
with ExitStack() as stack:
    for folder in sys.argv[3:]:
        stack.enter_context(folder_lock.locked_folder(Path(folder)))
        if host:
            (Path(folder) / ".lock").unlink()
    if os.fork():
        print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def locking_process(*folders: Path, host: str = "", lease_seconds: float = LEASE_SECONDS) -> Iterator[subprocess.Popen]:
    """A process that has locked ``folders``, with a fork such as a loader process, which outlives it.

    Args:
        folders: to lock.
        host: name of another machine, to which the process belongs; the kernel's locks do not reach it.
        lease_seconds: of its leases, see ``folder_lock``.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, host, str(lease_seconds), *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()  # ends the fork
        process.stdout.close()
