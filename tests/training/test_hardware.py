"""Processes of a training that outlive the one that started them."""

import os
import subprocess
import sys
import time
from contextlib import suppress

FURTHER_RANK = """
import time
from afictl.training import Hardware, hardware, launch
hardware._LOOK = hardware._GRACE = 0.1
launch(Hardware("1"))
print("ready", flush=True)
time.sleep(600)  # as in a collective operation without the first
"""
FIRST_RANK = """
import os, subprocess, sys
further = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={**os.environ, "LOCAL_RANK": "1"},
                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
print(further.pid, further.stdout.readline(), flush=True)
"""


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
