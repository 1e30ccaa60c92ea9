"""Exit of the processes of a training."""

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from afictl.training import child_processes
from tests.helpers.ranks import FORKS

PRINTS_GROUP = """
import atexit
from torch import distributed
atexit.register(lambda: print(launched, distributed.is_initialized(), flush=True))  # called last
from afictl.training import HardwareSettings, launch
fabric = launch(HardwareSettings("2"))
launched = fabric.global_rank, distributed.is_initialized()
"""


@pytest.mark.slow
def test_a_process_leaves_its_group_before_it_exits(tmp_path):
    (tmp_path / "script.py").write_text(PRINTS_GROUP)
    command = [sys.executable, str(tmp_path / "script.py")]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
    assert sorted(output.splitlines()) == ["(0, True) False", "(1, True) False"]


def test_the_other_ranks_exit_soon_after_rank_zero():
    receiver, sender = FORKS.Pipe(duplex=False)
    rank_zero = FORKS.Process(target=start_rank_one_and_exit, args=(sender,))
    rank_zero.start()
    pid = receiver.recv()
    rank_zero.join()
    try:
        deadline = time.monotonic() + 30
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


def start_rank_one_and_exit(sender):
    child_processes._POLL_SECONDS = child_processes._EXIT_DELAY_SECONDS = 0.1
    parent, rank_one = os.getpid(), os.fork()
    if rank_one:
        sender.send(rank_one)
        os._exit(0)
    threading.Thread(target=child_processes.exit_after_parent, args=(parent,), daemon=True).start()
    time.sleep(600)  # as in a collective that rank 0 never joins


def is_running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # a zombie has exited
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return not os.path.isdir("/proc")
    except ProcessLookupError:
        return False
