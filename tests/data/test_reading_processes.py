"""Reading processes that do not answer, and their end."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from multiprocessing import active_children

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from afictl.data import (
    check_images,
    eval_batches,
    load_dataset,
    loader,
    reading_processes,
    train_batches,
    worker_processes,
)
from afictl.data.check import check_split
from afictl.data.loader import read_files
from afictl.errors import UserError
from afictl.presets import InputConfig

CONFIG = InputConfig(min_sizes=(64, 80), max_size=160, test_size=72)
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def dataset(shapes_dir):
    return load_dataset(shapes_dir, "train")


@pytest.fixture
def limits(monkeypatch):
    """Limits of seconds instead of minutes."""
    seconds = {"_NOTICE": 0.6, "_START": 0.9, "_RESTART": 1.2, "_LIMIT": 1.5, "_POLL": 0.1, "_END": 0.5, "_EXIT": 1.0}
    for name, value in seconds.items():
        module = reading_processes if name in ("_RESTART", "_LIMIT") else worker_processes
        monkeypatch.setattr(module, f"{name}_SECONDS", value)
    # Period in which torch looks for lost workers where no signal tells of them, as outside the main thread.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))


@pytest.fixture
def block_reading(monkeypatch, tmp_path):
    """Let a worker block without end as it reads an image: the first time alone, or always."""
    read_image, main_process = loader.read_image, os.getpid()

    def block(always):
        def read_or_block(path, *arguments):
            mark = tmp_path / "blocked"
            if os.getpid() != main_process and (always or not mark.exists()):
                mark.touch()
                time.sleep(1e6)
            return read_image(path, *arguments)

        monkeypatch.setattr(loader, "read_image", read_or_block)

    return block


def block_first_start(monkeypatch, tmp_path):
    """Let the first worker block before it reports its start."""
    prepare_sending, mark = worker_processes.prepare_sending, tmp_path / "blocked"

    def block_once():
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            prepare_sending()
        else:
            time.sleep(1e6)

    monkeypatch.setattr(worker_processes, "prepare_sending", block_once)


def first_image(dataset):
    return str(dataset.image_path(0))


def assert_same_images(batches, expected_batches):
    for batch, expected in zip(batches, expected_batches, strict=True):
        assert batch.image_ids == expected.image_ids
        assert all(a.equal(b) for a, b in zip(batch.images, expected.images, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_silent_worker_is_replaced_without_a_trace_in_the_batches(dataset, limits, block_reading, capsys, workers):
    expected = list(eval_batches(dataset, CONFIG, 2, workers=0))
    block_reading(always=False)
    assert_same_images(eval_batches(dataset, CONFIG, 2, workers=workers), expected)
    waits, restarts = capsys.readouterr().err.splitlines()
    assert waits.startswith("note: waiting for the reading processes for ")
    assert "started again" in restarts
    assert str(dataset.image_path(0).parent) in waits
    assert not active_children()


def test_a_worker_that_never_runs_after_its_fork_is_replaced_soon(dataset, limits, monkeypatch, tmp_path, capsys):
    """As one whose interpreter waits for a lock that another thread held at the fork."""
    expected = list(eval_batches(dataset, CONFIG, 2, workers=0))
    block_first_start(monkeypatch, tmp_path)
    monkeypatch.setattr(reading_processes, "_RESTART_SECONDS", 50.0)
    assert_same_images(eval_batches(dataset, CONFIG, 2, workers=2), expected)
    assert "started again" in capsys.readouterr().err


def test_training_batches_are_the_same_after_a_replacement(dataset, limits, block_reading):
    options = {"seed": 5, "half_view": True, "masks": True}
    expected = list(islice(train_batches(dataset, CONFIG, 4, workers=0, **options), 6))
    block_reading(always=False)
    batches = train_batches(dataset, CONFIG, 4, workers=2, **options)
    for batch, other in zip(islice(batches, 6), expected, strict=True):
        assert_same_images([batch], [other])
        assert all(a["boxes"].equal(b["boxes"]) for a, b in zip(batch.targets, other.targets, strict=True))


def test_workers_that_never_answer_end_the_reading_with_one_line(dataset, limits, block_reading):
    block_reading(always=True)
    with pytest.raises(UserError, match=r"sent nothing for \d+ s") as error:
        list(eval_batches(dataset, CONFIG, 2, workers=2))
    assert first_image(dataset) in str(error.value)
    assert "loader.workers=0" in str(error.value)
    assert not active_children()


def test_more_workers_than_cores_give_no_warning_of_torch(dataset, monkeypatch, recwarn):
    monkeypatch.setattr(torch._utils, "cpu_count", lambda: 1)
    assert len(list(eval_batches(dataset, CONFIG, 1, workers=2))) == len(dataset)
    assert not [warning for warning in recwarn if "DataLoader" in str(warning.message)]


def test_the_reading_of_single_files_is_bounded_too(dataset, limits, block_reading):
    block_reading(always=True)
    with pytest.raises(UserError, match="sent nothing"):
        list(read_files([dataset.image_path(0)], torch.Tensor.clone, workers=1))


def test_the_check_of_a_dataset_replaces_a_lost_process(shapes_dir, limits, monkeypatch, tmp_path, capsys):
    block_first_start(monkeypatch, tmp_path)
    report = check_split(shapes_dir, "train")
    assert report.images_checked
    assert report.images == 14
    assert "started again" in capsys.readouterr().err
    assert not active_children()


def test_the_check_of_a_dataset_ends_where_no_process_answers(shapes_dir, dataset, limits, monkeypatch):
    monkeypatch.setattr(check_images, "image_findings", lambda folder, item: time.sleep(1e6))
    with pytest.raises(UserError, match=r"sent nothing for \d+ s.*--no-images") as error:
        check_split(shapes_dir, "train")
    assert first_image(dataset) in str(error.value)
    assert not active_children()


def test_a_thread_that_reads_is_not_blocked_either(dataset, limits, block_reading):
    expected = list(eval_batches(dataset, CONFIG, 2, workers=0))
    block_reading(always=False)
    batches = []
    thread = threading.Thread(target=lambda: batches.extend(eval_batches(dataset, None, 2, workers=1)), daemon=True)
    thread.start()
    thread.join(30)
    assert [batch.image_ids for batch in batches] == [batch.image_ids for batch in expected]


def test_a_worker_that_was_suspended_between_its_messages_is_replaced(dataset, limits):
    expected = list(eval_batches(dataset, None, 2, workers=0))
    batches = eval_batches(dataset, None, 2, workers=1)
    first = next(batches)
    (worker,) = active_children()
    time.sleep(0.3)  # messages are there whose memory has to be fetched from the worker
    os.kill(worker.pid, signal.SIGSTOP)
    assert_same_images([first, *batches], expected)


def test_a_suspended_worker_does_not_block_the_end_of_the_reading(dataset, limits):
    batches = eval_batches(dataset, CONFIG, 2, workers=1)
    next(batches)
    (worker,) = active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 10
    assert not active_children()


def test_a_lock_of_a_killed_worker_does_not_block_the_end_of_the_reading(dataset, limits, monkeypatch):
    """As if the worker was killed while it looked whether it should end."""
    iterators = []
    end = reading_processes.end_workers
    monkeypatch.setattr(reading_processes, "end_workers", lambda batches: [iterators.append(batches), end(batches)])
    next_batch = reading_processes._next_batch

    def hold_lock(batches, watch):
        batch = next_batch(batches, watch)
        batches._workers_done_event._cond.acquire()
        return batch

    monkeypatch.setattr(reading_processes, "_next_batch", hold_lock)
    batches = eval_batches(dataset, CONFIG, 2, workers=1)
    next(batches)
    batches.close()
    assert iterators
    assert not active_children()
    iterators[0]._workers_done_event._cond.release()


def test_a_suspended_worker_does_not_block_the_exit_of_the_process(shapes_dir):
    program = """
import os, signal, sys
from multiprocessing import active_children
from afictl.data import eval_batches, load_dataset, worker_processes
worker_processes._EXIT_SECONDS = 0.5
batches = eval_batches(load_dataset(sys.argv[1], "val"), None, workers=1)
next(batches)
os.kill(active_children()[0].pid, signal.SIGSTOP)
"""
    line = [sys.executable, "-c", program, str(shapes_dir)]
    assert subprocess.run(line, timeout=50, check=False).returncode == 0
