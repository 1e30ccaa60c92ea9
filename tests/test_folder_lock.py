import platform
import threading

import pytest

from afictl.folder_lock import FolderInUseError, locked_folder
from afictl.run_folder import HOLDER, LOCK
from tests.helpers.full_disk import fill_disk_for, needs_dev_full
from tests.helpers.locks import locking_process


def test_the_lock_of_another_process_is_named_and_ends_with_it(tmp_path):
    folder = tmp_path / "run"
    with locking_process(folder) as process:
        with pytest.raises(FolderInUseError) as error, locked_folder(folder):
            pass
        assert str(error.value).startswith(f"{folder}: process {process.pid} on {platform.node()} ")
        process.kill()
        process.wait()
        with locked_folder(folder):  # although a fork of the process is alive
            pass


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


@needs_dev_full
def test_a_full_disk_leaves_the_lock_of_the_file_alone(tmp_path):
    """The name of the holder is for messages; files of a run tell that a disk is full."""
    fill_disk_for(tmp_path / HOLDER)
    with locked_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def acquire(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with locked_folder(tmp_path):
        pass
    assert str(tmp_path) in capsys.readouterr().err
