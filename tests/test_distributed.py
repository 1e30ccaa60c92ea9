"""A long computation on rank 0 that any rank may end; the ranks are threads with one collective."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier, local

import pytest

from afictl import UserError
from afictl.distributed import run_on_rank_zero_with_progress

PARTS = 5


class Group:
    """``all_gather_object`` of two ranks."""

    def __init__(self):
        self.rank = local()
        self.barrier = Barrier(2, timeout=20)
        self.values = [None, None]

    def gather(self, outcomes, value):
        self.values[self.rank.number] = value
        self.barrier.wait()
        outcomes[:] = self.values
        self.barrier.wait()


@pytest.fixture
def run(monkeypatch):
    """A function that calls ``run_on_rank_zero_with_progress`` on two ranks and returns their results or errors."""
    group = Group()
    monkeypatch.setattr("afictl.distributed.distributed.all_gather_object", group.gather)

    def run(action, progress):
        def call(rank):
            group.rank.number = rank
            try:
                return run_on_rank_zero_with_progress(action, partial(progress, rank), rank, 2)
            except (Exception, KeyboardInterrupt) as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(call, range(2)))

    return run


def evaluate(progress):
    for done in range(1, PARTS + 1):
        progress(done, PARTS)
    return "metrics"


def test_the_result_and_the_progress_reach_all_ranks(run):
    calls = []
    assert run(evaluate, lambda *call: calls.append(call)) == ["metrics", "metrics"]
    counts = [(done, PARTS) for done in range(1, PARTS + 1)]
    for rank in range(2):
        assert [call[1:] for call in calls if call[0] == rank] == counts


def test_another_rank_ends_the_computation_between_two_parts(run):
    parts = []

    def progress(rank, done, total):
        if rank == 1 and done == 2:
            raise KeyboardInterrupt
        parts.append((rank, done))

    assert [type(error) for error in run(evaluate, progress)] == [KeyboardInterrupt, KeyboardInterrupt]
    assert max(done for rank, done in parts if rank == 0) == 3


def test_a_failure_on_rank_zero_reaches_all_ranks(run):
    def fail(progress):
        progress(1, PARTS)
        raise UserError("image.jpg: no image")

    assert [str(error) for error in run(fail, lambda *call: None)] == ["image.jpg: no image"] * 2
