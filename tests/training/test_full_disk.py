"""Training on a disk that becomes full: one line of error, the previous state, and a run that can be resumed."""

import errno
import os
import threading

import pytest
import torch

from afictl.errors import UserError, format_error
from afictl.files import write_text
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune, loop
from afictl.training.run_writer import RunWriter
from afictl.weights import read_checkpoint
from tests.helpers.full_disk import fill_disk_for, needs_dev_full
from tests.helpers.tiny_runs import assert_same_states, with_steps

pytestmark = needs_dev_full

NO_SPACE = os.strerror(errno.ENOSPC)


@pytest.fixture
def out_of_space(fabric, preset, shapes_dir, tmp_path):
    """A run of four steps that has saved two; its disk was full at the next save."""
    folder = tmp_path / "run"
    preset = with_steps(preset, checkpoint_every=2)
    begin_step = loop._seed_step

    def fill(seed, step):
        begin_step(seed, step)
        if (folder / "state.pt").is_file() and not list(folder.glob(".state.pt.*")):
            fill_disk_for(folder / "state.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_seed_step", fill)
        with pytest.raises(OSError, match=NO_SPACE) as error:
            finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"))
    assert format_error(error.value).startswith(f"{folder / 'state.pt'}: {NO_SPACE}")
    return folder, preset


def test_the_previous_state_stays_and_is_resumed_with_space(fabric, shapes_dir, guide_run, out_of_space):
    folder, preset = out_of_space
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 2
    assert read_checkpoint(folder / "last.safetensors").metadata["step"] == 2
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # cut off by the full disk
    finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"), resume=True)
    assert_same_states(guide_run, folder, ("detector", "detector_optimizer", "best", "metrics", "step"))
    assert read_metrics(folder)[-1]["step"] == 4


@pytest.mark.parametrize("name", ["config.yaml", "versions.json"])
def test_a_folder_without_space_for_its_first_files_is_usable_later(fabric, tmp_path, name):
    folder = tmp_path / "run"

    def write(path, text):
        if path.name == name:
            fill_disk_for(path)
        write_text(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.run_writer.write_text", write)
        with pytest.raises(UserError, match=f"{name}: {NO_SPACE}"):
            RunWriter(fabric, folder, {}, resume=False)
    RunWriter(fabric, folder, {}, resume=False)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "versions.json"}


def test_a_log_without_space_is_named(fabric, tmp_path, monkeypatch):
    run = RunWriter(fabric, tmp_path / "run", {}, resume=False)
    monkeypatch.setattr("afictl.training.run_writer.open_to_append", lambda path: open("/dev/full", "a"))  # noqa: SIM115
    with pytest.raises(OSError, match=r"log\.txt"):
        run.log("a line")


def test_events_without_space_are_one_error_without_a_traceback(fabric, tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    hook = threading.excepthook
    run = RunWriter(fabric, tmp_path / "run", {}, resume=False)
    run.log_metrics(1, {"loss": 1.0})
    run.save_state({})
    (file,) = run.folder.glob("events*")
    file.unlink()
    file.symlink_to("/dev/full")

    def log_and_save():
        for step in range(2, 1000):
            run.log_metrics(step, {"loss": 1.0})
        run.save_state({})

    with pytest.raises(OSError, match=NO_SPACE) as error:
        log_and_save()
    assert error.value.filename == str(run.folder)
    with pytest.raises(OSError, match=NO_SPACE):
        run.close()
    assert printed == []
    assert threading.excepthook is hook
