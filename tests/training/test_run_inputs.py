"""Class order and fingerprints of a run: resumption after its inputs were exported again, moved or changed."""

import json
import shutil

import pytest
import torch
import yaml

from afictl import AFInterpolator, UserError, load_preset
from afictl.tensor_files import read_tensors
from afictl.training import InitialWeights, finetune
from afictl.weights import load_detector
from tests.helpers.changed_data import change_annotations, rename_disc, renumber
from tests.helpers.tiny_runs import assert_same_states, interrupted_at_batch, with_steps

NEAREST = InitialWeights("nearest")
PARTS = ("detector", "detector_optimizer", "metrics", "step")


@pytest.fixture
def train(fabric, preset, tmp_path):
    """``finetune`` to the run ``run`` with a checkpoint every second step."""

    def train(data, output=tmp_path / "run", initial=NEAREST, **options):
        return finetune(fabric, with_steps(preset, checkpoint_every=2), data, output, initial, **options)

    return train


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
    assert list(config["contents"]) == ["train", "val"]


@pytest.mark.parametrize("earlier", [False, True])
def test_renumbered_annotations_do_not_change_a_resumed_run(train, shapes_dir, guide_run, tmp_path, earlier):
    """Bit for bit, as label k is the same class; a run of an earlier version has the order of its latest weights."""
    data = change_annotations(shapes_dir, tmp_path / "data", lambda split, content: None)
    with interrupted_at_batch(3):
        train(data)
    if earlier:
        drop_records(tmp_path / "run")
    shutil.rmtree(data)
    change_annotations(shapes_dir, data, renumber)
    train(data, resume=True)
    assert_same_states(guide_run, tmp_path / "run", PARTS)
    _, metadata = read_tensors(tmp_path / "run" / "last.safetensors")
    assert metadata["classes"] == ["disc", "square", "triangle", "cross"]
    assert metadata["category_ids"] == [49, 48, 47, 46]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("earlier version") == earlier


def test_a_resumed_run_does_not_need_its_initial_weights(train, shapes_dir, guide_run, tmp_path):
    """The guide numbers the classes in another order than the data."""
    guide, interpolator = tmp_path / "guide", tmp_path / "interpolator.safetensors"
    shutil.copytree(guide_run, guide)
    AFInterpolator(16, blocks=1, growth=4).save(interpolator)
    data = change_annotations(shapes_dir, tmp_path / "data", renumber)
    initial = InitialWeights(str(interpolator), weights=guide)
    with interrupted_at_batch(3):
        train(data, initial=initial)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    train(data, initial=initial, output=tmp_path / "other", resume=True)
    guide.rename(tmp_path / "moved")
    interpolator.unlink()
    train(data, initial=initial, resume=True)
    assert_same_states(tmp_path / "other", tmp_path / "run", PARTS)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["classes"][0] == "disc"


def test_moved_data_and_weights_are_accepted(train, shapes_dir, guide_run, tmp_path):
    data = change_annotations(shapes_dir, tmp_path / "data", lambda split, content: None)
    with interrupted_at_batch(3):
        train(data, initial=InitialWeights("nearest", weights=shutil.copytree(guide_run, tmp_path / "guide")))
    for name in ("data", "guide"):
        (tmp_path / name).rename(tmp_path / f"moved {name}")
    moved = InitialWeights("nearest", weights=tmp_path / "moved guide")
    train(tmp_path / "moved data", initial=moved, resume=True)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 4


def test_changed_annotations_are_refused(resume_error, shapes_dir, tmp_path):
    def move_box(split, content):
        content["annotations"][0]["bbox"][0] += split == "val2017"

    message = resume_error(change_annotations(shapes_dir, tmp_path / "data", move_box))
    assert message.endswith("--resume with other settings: data")


def test_annotations_changed_in_place_are_refused_by_file(train, shapes_dir, tmp_path):
    data = change_annotations(shapes_dir, tmp_path / "data", lambda split, content: None)
    with interrupted_at_batch(3):
        train(data)
    file = data / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(content))
    state = (tmp_path / "run" / "state.pt").read_bytes()
    with pytest.raises(UserError, match=f"^{file}: .*--output$"):
        train(data, resume=True)
    assert (tmp_path / "run" / "state.pt").read_bytes() == state


def test_initial_weights_changed_in_place_are_refused_by_file(train, shapes_dir, guide_run, tmp_path):
    initial = InitialWeights("nearest", weights=tmp_path / "weights.safetensors")
    shutil.copy(guide_run / "last.safetensors", initial.weights)
    with interrupted_at_batch(3):
        train(shapes_dir, initial=initial)
    shutil.copy(tmp_path / "run" / "last.safetensors", initial.weights)
    with pytest.raises(UserError, match=f"^{initial.weights}: .*--output$"):
        train(shapes_dir, initial=initial, resume=True)


def test_missing_and_new_classes_are_named(resume_error, shapes_dir, tmp_path):
    message = resume_error(rename_disc(shapes_dir, tmp_path / "data"))
    assert "'coin'" in message
    assert "'disc'" in message
    assert "config.yaml" in message


def with_mean(preset, mean):
    return preset.model_copy(update={"input": preset.input.model_copy(update={"mean": mean})})


def test_a_run_of_a_former_resnest_preset_keeps_its_pixel_mean(fabric, preset, tmp_path, shapes_dir):
    former, run = (0.485, 0.456, 0.406), tmp_path / "run"
    today = load_preset("cascade-rcnn-s101-pafpn").input.mean
    finetune(fabric, with_mean(preset, former), shapes_dir, run, NEAREST)
    finetune(fabric, with_mean(preset, today), shapes_dir, run, NEAREST, resume=True)
    assert load_detector(run).preset.input.mean == former
    with pytest.raises(UserError, match=r"preset\.input\.mean"):
        finetune(fabric, with_mean(preset, (0.5, 0.5, 0.5)), shapes_dir, run, NEAREST, resume=True)
