"""The end of a process of a group, as the others learn it from the store."""

import time

import pytest
from torch import distributed

from afictl.launchers import LaunchedProcess
from afictl.training import rendezvous
from tests.helpers.ranks import FORKS


@pytest.fixture
def second(monkeypatch):
    """The group of rank 1 of three processes, and rank 0, which serves the store and may be killed."""
    monkeypatch.setattr(rendezvous, "_LOSS_SECONDS", 0.3)
    receiver, sender = FORKS.Pipe(duplex=False)
    first = FORKS.Process(target=serve, args=(sender,))
    first.start()
    port = receiver.recv()
    process = LaunchedProcess("torchrun", 1, 3, 1, 3, 1, 0, "127.0.0.1", port)
    store = distributed.TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False)
    yield rendezvous.Group(process, store, {}), first
    first.kill()
    first.join()


def serve(sender):
    store = rendezvous.host_store(0)
    sender.send(store.port)
    time.sleep(600)


def test_a_process_that_gives_no_answer_is_named_unless_another_has_given_a_reason(second):
    group, _ = second
    failure = group.find_failure()
    assert (failure.rank, failure.is_announced) == (0, False)
    group._store.set("answer/0", "")
    assert group.find_failure().rank == 2
    group._store.set("failure/2", "no such image")
    assert group.find_failure() == (2, "no such image", True)
    assert group.announce_failure("the end")


def test_the_end_of_the_process_that_serves_the_store_is_told_without_a_stack(second, capfd):
    group, first = second
    first.kill()
    first.join()
    assert group.find_failure() == (0, "it ended without a message", False)
    assert not group.announce_failure("the end")
    assert capfd.readouterr() == ("", "")
