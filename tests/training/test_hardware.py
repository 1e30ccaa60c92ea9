"""Exit of the processes of a training."""

import os
import subprocess
import sys
import time
from contextlib import suppress

RANK_ONE = """
import os, threading, time
from afictl.training import hardware
hardware._POLL_SECONDS = hardware._EXIT_DELAY_SECONDS = 0.1
threading.Thread(target=hardware._exit_after_parent, args=(os.getppid(),), daemon=True).start()
print("ready", flush=True)
time.sleep(600)  # as in a collective that rank 0 never joins
"""
RANK_ZERO = """
import os, subprocess, sys
rank_one = subprocess.Popen([sys.executable, "-c", sys.argv[1]],
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
print(rank_one.pid, rank_one.stdout.readline(), flush=True)
"""

PRINTS_GROUP = """
import atexit
from torch import distributed
atexit.register(lambda: print(launched, distributed.is_initialized(), flush=True))  # called last
from afictl.training import HardwareSettings, launch
fabric = launch(HardwareSettings("2"))
launched = fabric.global_rank, distributed.is_initialized()
"""


def test_a_process_leaves_its_group_before_it_exits(tmp_path):
    (tmp_path / "script.py").write_text(PRINTS_GROUP)
    command = [sys.executable, str(tmp_path / "script.py")]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
    assert sorted(output.splitlines()) == ["(0, True) False", "(1, True) False"]


def test_the_other_ranks_exit_soon_after_rank_zero():
    command = [sys.executable, "-c", RANK_ZERO, RANK_ONE]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout.split()
    pid = int(output[0])
    assert output[1:] == ["ready"]
    try:
        deadline = time.monotonic() + 30
        while is_running(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


def is_running(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # a zombie has exited
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return not os.path.isdir("/proc")
    except ProcessLookupError:
        return False
