"""Class order of all runs of a comparison, and inputs that change or vanish while it is under way."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image

from afictl import UserError
from afictl.comparison import Method, compare
from afictl.comparison.experiment import execution
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.records import read_result
from afictl.comparison.report.detection_gallery import draw_gallery
from afictl.tensor_files import read_tensors
from afictl.training import loop
from tests.helpers.changed_data import change_annotations, renumber
from tests.helpers.tiny_runs import interrupted_at_batch, with_steps


@pytest.fixture
def settings(settings, shapes_dir, tmp_path):
    """An experiment of one method on data that may be overwritten."""
    data = change_annotations(shapes_dir, tmp_path / "data", lambda split, content: None)
    return replace(settings, data=data, methods=settings.methods[:1])


def edit(settings, change, splits=("train2017", "val2017")):
    for split in splits:
        file = settings.data / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        change(split, content)
        file.write_text(json.dumps(content))


def change_image(settings, split):
    """Re-encode an image in a folder that may be overwritten."""
    folder = settings.data / split
    if folder.is_symlink():
        source = folder.resolve()
        folder.unlink()
        shutil.copytree(source, folder)
    file = sorted(folder.iterdir())[2]
    Image.open(file).save(file, quality=30)


def pop_object(split, content):
    content["annotations"].pop()


@pytest.fixture
def after_first_run(monkeypatch):
    """A function that lets an action happen between the first and the second run."""
    train_run = execution.train_run

    def after_first_run(action):
        def train(fabric, preset, data, run):
            train_run(fabric, preset, data, run)
            if run.seed == 0:
                action()

        monkeypatch.setattr(execution, "train_run", train)

    return after_first_run


def test_runs_that_are_resumed_or_begun_after_a_renumbering_are_the_same(fabric, settings, finished):
    """Bit for bit those of a comparison without it: label k is the same class in all of them."""
    settings = replace(settings, seeds=(0, 1, 2))
    with interrupted_at_batch(3):  # in the second run, before its first checkpoint
        train_experiment(fabric, settings)
    edit(settings, renumber)
    assert train_experiment(fabric, settings) == {}
    for seed in (0, 1):
        (tensors, metadata), (expected, _) = (
            read_tensors(output / "nearest" / f"seed{seed}" / "last.safetensors")
            for output in (settings.output, finished.output)
        )
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        assert metadata["classes"] == ["disc", "square", "triangle", "cross"]
        results = [read_result(output / "nearest" / f"seed{seed}") for output in (settings.output, finished.output)]
        assert results[0].metrics == results[1].metrics
    comparison = compare(fabric, settings.preset, settings.data, settings.methods, settings.output).comparison
    (note,) = [note for note in draw_gallery(comparison, 10**6).notes if "ids" in note]
    assert str(settings.data) in note  # predictions of seed 0 have the former ids


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_annotations_that_change_between_two_runs_fail_the_second(fabric, settings, after_first_run, split):
    settings = replace(settings, seeds=(0, 1))
    after_first_run(lambda: edit(settings, pop_object, [split]))
    failures = train_experiment(fabric, settings)
    assert list(failures) == ["nearest seed 1"]
    assert f"instances_{split}.json: its content has changed" in failures["nearest seed 1"]
    assert not (settings.output / "nearest" / "seed1").exists()
    assert (settings.output / "nearest" / "seed0" / "result.json").is_file()


def test_images_that_change_between_two_runs_fail_the_second(fabric, settings, after_first_run):
    settings = replace(settings, seeds=(0, 1))
    after_first_run(lambda: change_image(settings, "val2017"))
    failures = train_experiment(fabric, settings)
    assert list(failures) == ["nearest seed 1"]
    assert "val2017: its content has changed" in failures["nearest seed 1"]
    assert not (settings.output / "nearest" / "seed1").exists()
    with pytest.raises(UserError, match=r"val2017: its content has changed since .*seed0 was trained"):
        train_experiment(fabric, settings)


@pytest.mark.parametrize("interruption", [nullcontext(), interrupted_at_batch(2)])
def test_a_run_during_which_images_change_begins_anew(fabric, settings, finished, monkeypatch, interruption):
    """Its weights and result are then those of the restored images alone."""
    settings = replace(settings, preset=with_steps(settings.preset, checkpoint_every=1))
    run = settings.output / "nearest" / "seed0"
    failures = {}
    with monkeypatch.context() as patch, interruption:
        begin_step = loop._seed_step

        def change(seed, step):
            begin_step(seed, step)
            if step == 0:
                change_image(settings, "train2017")

        patch.setattr(loop, "_seed_step", change)
        failures = train_experiment(fabric, settings)
    assert all("train2017: its content has changed" in failure for failure in failures.values())
    assert not (run / "result.json").exists()
    assert not (run / "state.pt").exists()
    assert "its saved state is removed" in (run / "log.txt").read_text()
    shutil.rmtree(settings.data / "train2017")
    (settings.data / "train2017").symlink_to(finished.data / "train2017")
    assert train_experiment(fabric, settings) == {}
    expected = finished.output / "nearest" / "seed0"
    assert read_result(run).metrics == read_result(expected).metrics
    tensors, expected_tensors = (read_tensors(folder / "last.safetensors")[0] for folder in (run, expected))
    assert all(torch.equal(tensors[name], expected_tensors[name]) for name in expected_tensors)


def test_files_that_vanish_between_two_runs_are_named(fabric, settings, finished, after_first_run, tmp_path):
    weights = tmp_path / "weights.safetensors"
    shutil.copy(finished.output / "nearest" / "seed0" / "last.safetensors", weights)
    settings = replace(settings, seeds=(0, 1), weights=weights)
    after_first_run(weights.unlink)
    failures = train_experiment(fabric, settings)
    assert list(failures) == ["nearest seed 1"]
    assert failures["nearest seed 1"].startswith(f"{weights}: ")


def test_held_out_annotations_that_change_at_the_end_are_not_reported_on(fabric, settings, after_first_run):
    after_first_run(lambda: edit(settings, pop_object))
    with pytest.raises(UserError, match=r"instances_val2017\.json: its content has changed"):
        compare(fabric, settings.preset, settings.data, settings.methods, settings.output)
    assert (settings.output / "nearest" / "seed0" / "result.json").is_file()
    assert not (settings.output / "report.html").exists()


def test_a_vanished_interpolator_is_not_needed_by_a_run_with_a_state(fabric, settings, methods, tmp_path):
    file = shutil.copy(methods[1].source, tmp_path / "copy.safetensors")
    preset = with_steps(settings.preset, checkpoint_every=1)
    settings = replace(settings, methods=(Method("trained", str(file)),), preset=preset)
    with interrupted_at_batch(2):
        train_experiment(fabric, settings)
    file.unlink()
    assert train_experiment(fabric, settings) == {}
