"""Training on a disk that becomes full: one line, the checkpoint of before, and a run that goes on later."""

import json

import pytest
import torch

from afictl.errors import UserError, format_error
from afictl.files import write_text
from afictl.training import InitialWeights, finetune
from afictl.training.logger import TrainingLogger
from afictl.training.run_writer import RunWriter
from afictl.weights import read_checkpoint
from tests.helpers.full_disk import fill_disk_for, needs_dev_full
from tests.helpers.tiny_runs import with_steps

pytestmark = needs_dev_full


@pytest.fixture
def out_of_space(fabric, preset, shapes_dir, tmp_path):
    """A run of four steps, two of which are saved; there was no space behind them."""
    folder = tmp_path / "run"
    preset = with_steps(preset, checkpoint_every=2)
    loaded = TrainingLogger.mark_batch_loaded

    def fill(clock):
        loaded(clock)
        if (folder / "state.pt").is_file() and not list(folder.glob(".state.pt.*")):
            fill_disk_for(folder / "state.pt")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLogger, "mark_batch_loaded", fill)
        with pytest.raises(OSError, match="No space left") as error:
            finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"))
    assert format_error(error.value) == f"{folder / 'state.pt'}: No space left on device; free some"
    return folder, preset


def test_the_state_of_before_stays_and_the_run_goes_on_with_space(fabric, shapes_dir, guide_run, out_of_space):
    folder, preset = out_of_space
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 2
    assert read_checkpoint(folder / "last.safetensors").metadata["step"] == 2
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')  # as a line ends for which there is no space
    finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"), resume=True)
    whole, resumed = (torch.load(run / "state.pt", weights_only=True) for run in (guide_run, folder))
    for part in ("detector", "detector_optimizer", "best", "metrics", "step"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()][-1] == 4


@pytest.mark.parametrize("name", ["config.yaml", "versions.json"])
def test_a_folder_without_space_for_its_first_files_can_be_used_later(fabric, tmp_path, name):
    folder = tmp_path / "run"

    def write(path, text):
        if path.name == name:
            fill_disk_for(path)
        write_text(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.run_writer.write_text", write)
        with pytest.raises(UserError, match=f"{name}: No space left"):
            RunWriter(fabric, folder, {}, resume=False)
    RunWriter(fabric, folder, {}, resume=False)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "versions.json"}


def test_a_log_without_space_is_named(fabric, tmp_path):
    run = RunWriter(fabric, tmp_path / "run", {}, resume=False)
    (run.folder / "log.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"log\.txt"):
        run.log("a line")
