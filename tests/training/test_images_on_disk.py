"""Image files that are missing before a training, or that change or vanish while it is under way."""

import os
import shutil

import pytest
from PIL import Image

from afictl import UserError
from afictl.comparison import Method, compare
from afictl.training import InitialWeights, finetune, loop, pretrain
from tests.helpers.tiny_runs import interrupted_at_batch, with_steps


@pytest.fixture
def data(shapes_dir, tmp_path):
    """A dataset whose image files may be changed."""
    return shutil.copytree(shapes_dir, tmp_path / "data")


@pytest.fixture
def commands(fabric, preset, data, guide_run, tmp_path):
    """The ways to train on ``data``, by name; all write to the folder ``run``."""
    output = tmp_path / "run"
    return {
        "finetune": lambda: finetune(fabric, preset, data, output, InitialWeights("nearest")),
        "pretrain": lambda: pretrain(fabric, guide_run, data, output),
        "compare": lambda: compare(fabric, preset, data, [Method("nearest", "nearest")], output),
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["finetune", "pretrain", "compare"])
def test_missing_images_of_either_split_are_told_before_the_run_begins(commands, command, data, tmp_path):
    train, val = sorted((data / "train2017").iterdir()), sorted((data / "val2017").iterdir())
    content = val[3].read_bytes()
    val[1].unlink()
    val[3].write_bytes(b"")
    with pytest.raises(UserError, match=rf"instances_val2017.json: 2 of its 6 .*{val[1].name} .*{val[3].name} is an e"):
        commands[command]()
    val[3].write_bytes(content)
    os.mkfifo(val[1])
    with pytest.raises(UserError, match=rf"1 of its 6 .*{val[1].name} is a named pipe"):
        commands[command]()
    val[1].unlink()
    val[1].write_bytes(content)
    train[5].unlink()
    with pytest.raises(UserError, match=rf"instances_train2017.json: 1 of its 14 .*{train[5].name}"):
        commands[command]()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("fault", ["does not exist", "a named pipe", "pixels"])
def test_image_that_changes_during_a_training_is_named(commands, data, monkeypatch, split, fault):
    loaded = []
    mark = loop._seed_step

    def change(*arguments):
        mark(*arguments)
        loaded.append(arguments)
        for file in (data / split).iterdir() if len(loaded) == 1 else ():
            if fault == "pixels":
                shutil.copyfile(data / "other.png", file)
                continue
            file.unlink()
            if "pipe" in fault:
                os.mkfifo(file)

    Image.new("RGB", (8, 9)).save(data / "other.png")
    monkeypatch.setattr(loop, "_seed_step", change)
    with pytest.raises(UserError, match=rf"{split}/\d+\.jpg .*{fault}|instances_{split}.json: 6 of its 6 .*{fault}"):
        commands["finetune"]()


def test_images_that_change_before_a_resumption_are_refused(fabric, preset, data, tmp_path):
    """Not so ones that were moved with the dataset."""
    preset = with_steps(preset, checkpoint_every=2)

    def train(data=data, resume=True):
        finetune(fabric, preset, data, tmp_path / "run", InitialWeights("nearest"), resume=resume)

    with interrupted_at_batch(3):
        train(resume=False)
    for split in ("train2017", "val2017"):
        file = sorted((data / split).iterdir())[2]
        content = file.read_bytes()
        Image.open(file).save(file, quality=30)
        with pytest.raises(UserError, match=f"^{file.parent}: its content has changed .* is {file.name}; restore it"):
            train()
        file.write_bytes(content)
    data.rename(tmp_path / "moved")
    train(data=tmp_path / "moved")


@pytest.mark.parametrize("command", ["finetune", "pretrain"])
def test_images_that_change_during_a_training_are_a_warning_at_its_end(commands, command, data, monkeypatch, tmp_path):
    begin_step = loop._seed_step

    def change(*arguments):
        file = sorted((data / "train2017").iterdir())[2]
        Image.open(file).save(file, quality=30)
        begin_step(*arguments)

    monkeypatch.setattr(loop, "_seed_step", change)
    commands[command]()
    logs = sorted((tmp_path / "run").rglob("log.txt"))
    assert len(logs) == (2 if command == "pretrain" else 1)
    for log in logs:
        (warning,) = [line for line in log.read_text().splitlines() if "its content has changed" in line]
        assert warning.startswith(f"warning: {data / 'train2017'}: ")
        assert warning.endswith("this training may have read both versions")


def test_failed_run_of_a_comparison_names_its_image(fabric, preset, data, tmp_path, monkeypatch):
    mark = loop._seed_step

    def remove(*arguments):
        mark(*arguments)
        shutil.rmtree(data / "val2017")
        (data / "val2017").mkdir()

    monkeypatch.setattr(loop, "_seed_step", remove)
    methods = [Method("nearest", "nearest")]
    outcome = compare(fabric, with_steps(preset, steps=1, eval_every=1), data, methods, tmp_path / "run")
    (failure,) = outcome.failures.values()
    assert "instances_val2017.json: 6 of its 6 images" in failure
    assert "000001.jpg does not exist" in failure
