"""Untrusted files: none runs code, none takes more than seconds or its size in memory, and all end in one line."""

import os
import pickle
import re
import resource
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from afictl import UserError
from afictl.weights import read_checkpoint
from tests.helpers import hostile_files
from tests.helpers.hostile_files import BIG, BUSY
from tests.helpers.ranks import FORKS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and measured as Linux does it")
GRANTED_BYTES = 512 * 2**20


def send_results(folder, sender):
    """In a new process: read the honest files, then the hostile ones with little memory to spare."""
    for path in sorted((folder / "honest").iterdir()):
        read_checkpoint(path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GRANTED_BYTES, used + GRANTED_BYTES))
    sender.send({path.name: read_measured(path) for path in sorted((folder / "hostile").iterdir())})


def read_measured(path):
    """Message, seconds, and MB by which the peak of memory grew."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        read_checkpoint(path)
        message = "was read"
    except UserError as error:
        message = str(error)
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return message, time.process_time() - start, grown / 1024


@pytest.fixture(scope="module")
def marker(tmp_path_factory):
    return tmp_path_factory.mktemp("code") / "it_ran"


@pytest.fixture(scope="module")
def results(tmp_path_factory, marker):
    """File name -> (message, seconds, MB by which the peak grew), read in one process with little memory to spare."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "honest").mkdir()
    torch.save({"a": torch.ones(2)}, folder / "honest" / "a.pth")
    (folder / "honest" / "a.pkl").write_bytes(hostile_files.mapping(hostile_files.array()))
    (folder / "hostile").mkdir()
    contents = {name: content for name, (content, _) in (BUSY | BIG).items()} | hostile_files.code(str(marker))
    for name, content in contents.items():
        (folder / "hostile" / name).write_bytes(content)
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=send_results, args=(folder, sender))
    process.start()
    sender.close()  # so that the end of the process ends the wait
    return receiver.recv()


@pytest.mark.parametrize("name", sorted(hostile_files.code("x")))
def test_code_is_refused_and_not_run(results, marker, name):
    message, _, _ = results[name]
    assert re.search("refused: |not a checkpoint", message), message
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["os_0.pkl", "os_4.pkl", "eval.pkl", "nested.pkl", "inst.pkl", "obj.pkl", "as_key.pkl"]
)
def test_the_hostile_files_execute_code_with_the_standard_readers(tmp_path, name):
    with suppress(TypeError):  # None as a key, after the call
        pickle.loads(hostile_files.code(str(tmp_path / "it_ran"))[name])
    assert (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(("name", "expected"), [(name, expected) for name, (_, expected) in (BUSY | BIG).items()])
def test_false_declarations_end_in_one_line(results, name, expected):
    message, _, _ = results[name]
    assert re.search(expected, message), message
    assert f"hostile/{name}: " in message
    assert "\n" not in message
    assert len(message) < 500


def test_time_and_memory_are_bounded(results):
    assert max(seconds for _, seconds, _ in results.values()) < 5
    assert sum(grown for _, _, grown in results.values()) < 300


@pytest.mark.parametrize("head", [b"\x80\x02}", b"PK\3\4", struct.pack("<Q", 2**36) + b"{", b"\0"])
def test_file_of_100_gb_is_refused_by_its_size(tmp_path, head):
    with open(tmp_path / "file.pth", "wb") as file:
        file.write(head)
        file.truncate(100 * 2**30)
    with pytest.raises(UserError, match=r"file\.pth: 100 GiB.* 8;"):
        read_checkpoint(tmp_path / "file.pth")


def make_loop(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "not a file"),
        (make_loop, "symbolic links"),
        (os.mkdir, "empty"),
        (lambda path: path.touch(), "empty"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
    ],
)
def test_paths_without_a_regular_file_are_refused(tmp_path, make, reason):
    make(tmp_path / "file.pth")
    with pytest.raises(UserError, match=f"^{tmp_path / 'file.pth'}: .*{reason}"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_invalid_file_name_is_refused(path):
    with pytest.raises(UserError, match=r"cannot be read|no such file"):
        read_checkpoint(path)
