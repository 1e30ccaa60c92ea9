import errno
import platform
import threading
import time

import pytest

from afictl import UserError, folder_lock
from afictl.folder_lock import FolderInUseError, find_holder, locked_folder, remove_locks
from afictl.run_folder import LEASE, LOCK
from tests.helpers.locks import locking_process

SECONDS = 1.0


def test_the_lock_of_another_process_is_named_and_ends_with_it(tmp_path, capsys):
    folder = tmp_path / "run"
    with locking_process(folder) as process:
        holder = f"process {process.pid} on {platform.node()}"
        assert find_holder(folder) == holder
        with pytest.raises(FolderInUseError) as error, locked_folder(folder):
            pass
        assert str(error.value).startswith(f"{folder}: {holder} ")
        with pytest.raises(UserError, match=f"{holder} runs"):
            remove_locks(tmp_path)
        process.kill()
        process.wait()
        assert find_holder(folder) == ""
        with locked_folder(folder):  # although a fork of the process is alive
            assert sorted(path.name for path in folder.iterdir()) == [LOCK, LEASE]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: {folder}: the lock of {holder}, ")


def test_a_lock_of_another_machine_is_respected_until_it_is_not_renewed(tmp_path, monkeypatch, capsys):
    """Although the kernel's locks do not reach that machine."""
    monkeypatch.setattr(folder_lock, "_RENEWAL_SECONDS", 0.1)
    monkeypatch.setattr(folder_lock, "LEASE_SECONDS", SECONDS)
    with locking_process(tmp_path, host="node7", lease_seconds=SECONDS) as process:
        holder = f"process {process.pid} on node7"
        assert find_holder(tmp_path) == holder
        with pytest.raises(FolderInUseError, match=f"{holder} writes"), locked_folder(tmp_path):
            pass
        process.kill()
        process.wait()
        start = time.monotonic()
        with locked_folder(tmp_path):
            assert time.monotonic() - start > SECONDS / 2
            assert find_holder(tmp_path) == ""
    assert f"the lock of {holder}, which has ended, is taken over" in capsys.readouterr().err


def test_a_lock_that_is_forced_is_told_and_ends_its_holder(tmp_path, capsys):
    with locking_process(tmp_path / "run", host="node7") as process:
        remove_locks(tmp_path)
        with locked_folder(tmp_path / "run"):
            assert process.wait(timeout=60) == 2
    assert capsys.readouterr().err == f"warning: {tmp_path / 'run'}: lock of process {process.pid} on node7 removed\n"


def test_a_command_that_waits_says_so_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folder_lock, "_WAIT_SECONDS", 0.01)
    with locking_process(tmp_path) as process:
        threading.Timer(0.2, process.kill).start()
        with locked_folder(tmp_path, wait=True) as waited:
            assert waited
    line = f"waiting for process {process.pid} on {platform.node()}, which writes to {tmp_path}\n"
    assert capsys.readouterr().out == line
    with locked_folder(tmp_path, wait=True) as waited:
        assert not waited


def test_a_thread_may_lock_a_folder_twice_and_another_thread_may_not(tmp_path):
    errors = []

    def lock():
        try:
            with locked_folder(tmp_path):
                pass
        except FolderInUseError as error:
            errors.append(error)

    def lock_in_a_thread():
        thread = threading.Thread(target=lock)
        thread.start()
        thread.join()

    with locked_folder(tmp_path):
        with locked_folder(tmp_path / "." / "x" / ".."):
            pass
        lock_in_a_thread()
    assert len(errors) == 1
    lock_in_a_thread()
    assert len(errors) == 1


def test_a_folder_without_content_is_removed_with_the_parents_that_were_created(tmp_path):
    with locked_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "config.yaml").touch()
    assert (tmp_path / "a" / "b" / "config.yaml").is_file()


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked_folder(tmp_path / "file" / "run"):
        pass


def test_a_full_disk_leaves_the_lock_of_the_kernel(tmp_path, monkeypatch):
    """Files of a run tell that a disk is full."""

    def acquire(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("filelock.SoftFileLease.acquire", acquire)
    with locked_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_kernel_locks_has_the_lease(tmp_path, monkeypatch):
    def acquire(*args, **kwargs):
        raise NotImplementedError

    with locking_process(tmp_path) as process:
        monkeypatch.setattr("filelock.UnixFileLock.acquire", acquire)
        assert find_holder(tmp_path) == f"process {process.pid} on {platform.node()}"
        with pytest.raises(FolderInUseError), locked_folder(tmp_path):
            pass
    with locked_folder(tmp_path):
        assert (tmp_path / LEASE).is_file()
