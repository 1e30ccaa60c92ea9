"""How the processes of a training end."""

import os
import subprocess
import sys
import time
from contextlib import suppress

FURTHER_RANK = """
import time
from afictl.training import HardwareSettings, hardware, launch
hardware._LOOK = hardware._GRACE = 0.1
launch(HardwareSettings("1"))
print("ready", flush=True)
time.sleep(600)  # as in a collective operation without the first
"""
FIRST_RANK = """
import os, subprocess, sys
further = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "LOCAL_RANK": "1"},
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
print(further.pid, further.stdout.readline(), flush=True)
"""

LEAVES = """
import atexit, os
from torch import distributed
atexit.register(lambda: os.write(1, f"{seen} {distributed.is_initialized()}\\n".encode()))  # the last to be called
from afictl.training import HardwareSettings, launch
fabric = launch(HardwareSettings("2"))
seen = fabric.global_rank, distributed.is_initialized()
"""


def test_a_process_leaves_the_group_before_it_ends(tmp_path):
    """Else it is aborted now and then with its work done."""
    (tmp_path / "script.py").write_text(LEAVES)
    command = [sys.executable, str(tmp_path / "script.py")]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout
    assert sorted(said.splitlines()) == ["(0, True) False", "(1, True) False"]


def test_a_further_process_ends_soon_after_the_first():
    command = [sys.executable, "-c", FIRST_RANK, FURTHER_RANK]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120).stdout.split()
    number = int(said[0])
    assert said[1:] == ["ready"]
    try:
        deadline = time.monotonic() + 30
        while runs(number) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not runs(number)
    finally:
        with suppress(ProcessLookupError):
            os.kill(number, 9)


def runs(number):
    try:
        os.kill(number, 0)
        with open(f"/proc/{number}/stat") as file:  # one that has ended may wait to be collected
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return not os.path.isdir("/proc")
    except ProcessLookupError:
        return False
