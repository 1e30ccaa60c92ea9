"""Class order and fingerprints of a run: resumption after its inputs were exported again, moved or changed."""

import json
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from afictl import AFInterpolator, UserError, load_preset
from afictl.tensor_files import read_tensors
from afictl.training import InitialWeights, finetune, stage3
from afictl.weights import load_detector
from tests.helpers.changed_data import change_annotations, rename_disc, renumber
from tests.helpers.tiny_runs import SMALL, assert_same_states, interrupted_at_batch, with_steps

NEAREST = InitialWeights("nearest")
PARTS = ("detector", "detector_optimizer", "metrics", "step")


@pytest.fixture
def train(fabric, preset, tmp_path):
    """``finetune`` to the run ``run`` with a checkpoint every second step."""

    def train(data, output=tmp_path / "run", initial=NEAREST, **options):
        return finetune(fabric, with_steps(preset, checkpoint_every=2), data, output, initial, **options)

    return train


class Interrupted(NamedTuple):
    """A run with a saved state, and its inputs, whose classes have another order than the data's ids."""

    run: Path
    data: Path
    guide: Path
    interpolator: Path

    @property
    def initial(self):
        return InitialWeights(str(self.interpolator), weights=self.guide)


@pytest.fixture(scope="module")
def interrupted(fabric, shapes_dir, guide_run, tmp_path_factory):
    """Not to be changed for longer than a test."""
    folder = tmp_path_factory.mktemp("interrupted")
    inputs = Interrupted(*(folder / name for name in ("run", "data", "guide.safetensors", "interpolator.safetensors")))
    shutil.copy(guide_run / "last.safetensors", inputs.guide)
    AFInterpolator(16, blocks=1, growth=4).save(inputs.interpolator)
    change_annotations(shapes_dir, inputs.data, renumber)
    preset = with_steps(load_preset("mask-rcnn-r18-fpn-tiny", SMALL), checkpoint_every=2)
    with interrupted_at_batch(3):
        finetune(fabric, preset, inputs.data, inputs.run, inputs.initial)
    return inputs


@contextmanager
def changed(path, content):
    """``path`` has other ``content`` inside."""
    before = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(before)


@pytest.fixture
def resume_error(fabric, preset, guide_run, tmp_path):
    """A function that resumes a copy of the guide's run and returns the error, which must not change the run."""

    def resume_error(data):
        folder = shutil.copytree(guide_run, tmp_path / "copy")
        with pytest.raises(UserError) as error:
            finetune(fabric, preset, data, folder, NEAREST, resume=True)
        assert "\n" not in str(error.value)
        for name in ("config.yaml", "state.pt", "metrics.jsonl"):
            assert (folder / name).read_bytes() == (guide_run / name).read_bytes()
        return str(error.value)

    return resume_error


def drop_records(run):
    """Turn the settings of a run into those of a version that recorded neither classes nor fingerprints."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["classes"], config["contents"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_run_records_its_classes_and_fingerprints(guide_run):
    config = yaml.safe_load((guide_run / "config.yaml").read_text())
    assert config["classes"] == ["disc", "square", "triangle", "cross"]
    assert list(config["contents"]) == ["train", "val", "train_images", "val_images"]


def test_renumbered_annotations_do_not_change_a_resumed_run(train, shapes_dir, guide_run, tmp_path):
    """Bit for bit, as label k is the same class; a run of an earlier version has the order of its latest weights."""
    data = change_annotations(shapes_dir, tmp_path / "data", lambda split, content: None)
    with interrupted_at_batch(3):
        train(data)
    drop_records(shutil.copytree(tmp_path / "run", tmp_path / "earlier"))
    shutil.rmtree(data)
    change_annotations(shapes_dir, data, renumber)
    for name in ("run", "earlier"):
        train(data, output=tmp_path / name, resume=True)
        assert_same_states(guide_run, tmp_path / name, PARTS)
        _, metadata = read_tensors(tmp_path / name / "last.safetensors")
        assert metadata["classes"] == ["disc", "square", "triangle", "cross"]
        assert metadata["category_ids"] == [49, 48, 47, 46]
        assert (tmp_path / name / "log.txt").read_text().count("earlier version") == (name == "earlier")


def test_a_resumed_run_does_not_need_its_initial_weights_where_they_were(train, interrupted, tmp_path):
    """Moved inputs are accepted, and absent weights not missed."""
    moved = Interrupted(*(tmp_path / f"moved {path.name}" for path in interrupted))
    absent = Interrupted(*(tmp_path / f"absent {path.name}" for path in interrupted))
    shutil.copytree(interrupted.data, moved.data, symlinks=True)
    for name in ("guide", "interpolator"):
        shutil.copy(getattr(interrupted, name), getattr(moved, name))
    for inputs, initial in ((moved, moved.initial), (absent, interrupted.initial)):
        shutil.copytree(interrupted.run, inputs.run)
        with ExitStack() as stack:
            for path in (interrupted.guide, interrupted.interpolator):
                stack.callback(path.with_suffix(".away").rename, path)
                path.rename(path.with_suffix(".away"))
            train(moved.data, output=inputs.run, initial=initial, resume=True)
    assert_same_states(moved.run, absent.run, PARTS)
    assert torch.load(moved.run / "state.pt", weights_only=True)["step"] == 4
    assert yaml.safe_load((moved.run / "config.yaml").read_text())["classes"][0] == "disc"


def test_changed_annotations_are_refused(resume_error, shapes_dir, tmp_path):
    def move_box(split, content):
        content["annotations"][0]["bbox"][0] += split == "val2017"

    message = resume_error(change_annotations(shapes_dir, tmp_path / "data", move_box))
    assert message.endswith(f"--resume with other settings: the run has data {shapes_dir}, now {tmp_path / 'data'}")


def test_inputs_changed_in_place_are_refused_by_file(train, interrupted, guide_run):
    annotations = interrupted.data / "annotations" / "instances_val2017.json"
    content = json.loads(annotations.read_text())
    content["annotations"][0]["bbox"][0] += 1
    other_weights = (guide_run / "best.safetensors").read_bytes() + b" "
    other_interpolator = interrupted.interpolator.read_bytes()[:-4] + bytes(4)
    state = (interrupted.run / "state.pt").read_bytes()
    for file, new in (
        (annotations, json.dumps(content).encode()),
        (interrupted.guide, other_weights),
        (interrupted.interpolator, other_interpolator),
    ):
        with changed(file, new), pytest.raises(UserError, match=f"^{file}: .*--output$"):
            train(interrupted.data, output=interrupted.run, initial=interrupted.initial, resume=True)
    assert (interrupted.run / "state.pt").read_bytes() == state


def test_weights_that_change_while_they_are_read_are_refused(train, interrupted, tmp_path, monkeypatch):
    """A run must not record the fingerprint of other weights than it starts from."""
    file = Path(shutil.copy(interrupted.guide, tmp_path / "guide.safetensors"))
    build = stage3.build_seeded_detector

    def change(*arguments):
        file.write_bytes(file.read_bytes()[:-4] + bytes(4))
        return build(*arguments)

    monkeypatch.setattr(stage3, "build_seeded_detector", change)
    with pytest.raises(UserError, match=f"^{file}: has changed while it was read"):
        train(interrupted.data, initial=interrupted._replace(guide=file).initial)
    assert not (tmp_path / "run").exists()


def test_missing_and_new_classes_are_named(resume_error, shapes_dir, tmp_path):
    message = resume_error(rename_disc(shapes_dir, tmp_path / "data"))
    assert "'coin'" in message
    assert "'disc'" in message
    assert "config.yaml" in message


def with_mean(preset, mean):
    return preset.model_copy(update={"input": preset.input.model_copy(update={"mean": mean})})


def test_a_run_of_a_former_resnest_preset_keeps_its_pixel_mean(fabric, preset, tmp_path, shapes_dir):
    preset = with_steps(preset, steps=1, eval_every=1)
    former, run = (0.485, 0.456, 0.406), tmp_path / "run"
    today = load_preset("cascade-rcnn-s101-pafpn").input.mean
    finetune(fabric, with_mean(preset, former), shapes_dir, run, NEAREST)
    finetune(fabric, with_mean(preset, today), shapes_dir, run, NEAREST, resume=True)
    assert load_detector(run).preset.input.mean == former
    assert "keeps input.mean=[0.485, 0.456, 0.406]" in (run / "log.txt").read_text()
    with pytest.raises(UserError, match=r"preset\.input\.mean"):
        finetune(fabric, with_mean(preset, (0.5, 0.5, 0.5)), shapes_dir, run, NEAREST, resume=True)
