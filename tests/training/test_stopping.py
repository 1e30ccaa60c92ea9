"""Signals that stop a training, and the loss of what it reads."""

import errno
import os
import signal
import time

import pytest
import torch

from afictl import load_preset
from afictl.data import load_dataset, make_shapes
from afictl.errors import UserError
from afictl.launchers import agent_of_torchrun
from afictl.training import InitialWeights, finetune, loop, stopping
from afictl.training.stopping import stop_signals
from tests.helpers.tiny_runs import SMALL, with_steps


@pytest.fixture(autouse=True)
def usual_handlers():
    """The signals of a terminal as a shell in the foreground passes them on; nohup and '&' ignore them."""
    usual = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    former = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_a_signal_sets_the_event_and_its_handler_is_restored(number):
    handler = signal.getsignal(number)
    with stop_signals(repetition_ends=True) as stop_requested:
        assert not stop_requested.is_set()
        signal.raise_signal(number)
        assert stop_requested.is_set()
        signal.raise_signal(number)  # at once: the same request
    assert signal.getsignal(number) is handler


def test_a_later_signal_has_its_usual_effect_without_a_launcher(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for repetition_ends in (False, True):
        now = 0.0
        with stop_signals(repetition_ends) as stop_requested:
            signal.raise_signal(signal.SIGINT)
            now = 10.0
            if repetition_ends:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            else:
                signal.raise_signal(signal.SIGINT)
            assert stop_requested.is_set()


def test_the_end_of_a_terminal_is_a_request_and_output_goes_nowhere(monkeypatch):
    terminal, output = os.openpty()
    monkeypatch.setattr(stopping, "_OUTPUTS", (output,))
    try:
        with stop_signals(repetition_ends=True) as stop_requested:
            os.close(terminal)
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                os.write(output, b"a line")
            signal.raise_signal(signal.SIGHUP)
            assert stop_requested.is_set()
            os.write(output, b"a line")
    finally:
        os.close(output)


def test_the_end_of_the_parent_process_is_a_request(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with stop_signals(repetition_ends=False, parent=agent_of_torchrun()) as stop_requested:
        assert not stop_requested.is_set()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stop_requested.is_set()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert agent_of_torchrun() is None  # the shell of another process may end before it


def test_an_ignored_signal_stays_ignored():
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(repetition_ends=True) as stop_requested:
            signal.raise_signal(signal.SIGHUP)
            assert not stop_requested.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


@pytest.fixture
def broken_at_step_two(fabric, tmp_path, monkeypatch):
    """A training whose ``damage`` is done at the start of its second of four steps; returns its error and folder."""

    def train(damage, workers):
        data, folder = make_shapes(tmp_path / "data", train=4, val=1, size=64), tmp_path / "run"
        begin_step = loop._seed_step

        def break_at_step_two(seed, step):
            if step == 1:
                damage(load_dataset(data, "train"))
            begin_step(seed, step)

        monkeypatch.setattr(loop, "_seed_step", break_at_step_two)
        preset = load_preset("faster-rcnn-r18-fpn-tiny", [*SMALL, f"loader.workers={workers}"])
        with pytest.raises((UserError, RuntimeError)) as error:
            finetune(fabric, with_steps(preset, steps=40), data, folder, InitialWeights("nearest"))
        return str(error.value), folder

    return train


def test_an_image_that_is_lost_is_named_after_the_completed_step_is_saved(broken_at_step_two):
    def damage(dataset):
        for k in range(len(dataset)):
            dataset.image_path(k).write_bytes(b"")

    error, folder = broken_at_step_two(damage, workers=0)
    assert str(folder.parent / "data") in error
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 2


def test_a_lost_loader_process_ends_the_training_after_a_saved_step(broken_at_step_two, monkeypatch):
    def damage(dataset):
        (worker,) = torch.multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.2)  # its SIGCHLD arrives here, where nothing may be raised

    error, folder = broken_at_step_two(damage, workers=1)
    assert "DataLoader worker" in error
    assert torch.load(folder / "state.pt", weights_only=True)["step"] >= 2
