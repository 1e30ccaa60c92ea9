"""Files of pseudo labels to train on, and the runs that use them."""

import json
import re
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import yaml

from afictl import UserError, load_preset
from afictl.data import load_dataset
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, PseudoLabels, finetune
from tests.helpers.pseudo_files import write_pseudo_file
from tests.helpers.tiny_runs import SMALL, assert_same_states, interrupted_at_batch, with_steps


@pytest.mark.parametrize(
    ("batch_size", "ratio", "split"),
    [(4, 1, (2, 2)), (4, 3, (1, 3)), (4, 0.33, (3, 1)), (3, 2, (1, 2)), (16, 1.667, (6, 10)), (512, 1, (256, 256))],
)
def test_every_batch_has_the_ratio(batch_size, ratio, split):
    assert PseudoLabels("", ratio=ratio).split_batch(batch_size) == split


@pytest.mark.parametrize(
    ("batch_size", "ratio", "facts"),
    [
        (4, 2, ("--pseudo-ratio 2", "3 (1 labelled", "1 (2 labelled")),
        (16, 0.01, ("--pseudo-ratio 0.01", "0.0667 (15 labelled", "0.143")),
        (1, 1, ("--pseudo-ratio 1", "2 images")),
        (4, 0, ("--pseudo-ratio 0",)),
    ],
)
def test_an_impossible_ratio_is_an_error(batch_size, ratio, facts):
    with pytest.raises(UserError) as error:
        PseudoLabels("", ratio=ratio).split_batch(batch_size)
    assert all(fact in str(error.value) for fact in facts)


@pytest.mark.parametrize(
    ("batch_size", "ratio", "processes", "split", "advised"),
    [
        (2, 1, 2, (1, 1), 4),
        (4, 3, 2, (1, 3), 8),
        (16, 1.667, 4, (6, 10), 32),
    ],
)
def test_both_groups_of_a_batch_must_be_divisible_by_the_devices(batch_size, ratio, processes, split, advised):
    pseudo = PseudoLabels("", ratio=ratio)
    labelled, pseudo_labelled = split
    with pytest.raises(UserError, match=f" {labelled} labelled .* {pseudo_labelled} pseudo-labelled") as error:
        pseudo.split_batch(batch_size, processes)
    assert f"train.batch_size={advised} " in str(error.value)
    assert all(number % processes == 0 for number in pseudo.split_batch(advised, processes))


def test_labels_are_matched_by_name(pseudo_file, preset, shapes_dir):
    pseudo = PseudoLabels(pseudo_file).load(load_dataset(shapes_dir, "train"), preset, masks=True).pseudo
    truth = load_dataset(shapes_dir, "val")
    assert pseudo.classes == truth.classes
    for i in range(len(truth)):
        assert pseudo.objects(i).labels.equal(truth.objects(i).labels)


@pytest.mark.parametrize(
    "info",
    [
        {"image_folder": "../images"},
        {"image_folder": "/nowhere", "image_folder_from_here": "../images"},  # of earlier versions
    ],
)
def test_a_file_that_was_moved_with_its_images_is_read(preset, shapes_dir, tmp_path, info):
    shutil.copytree(shapes_dir / "val2017", tmp_path / "images")
    (tmp_path / "labels").mkdir()
    file = write_pseudo_file(tmp_path / "labels" / "pseudo.json", shapes_dir, info=info)
    mixed = PseudoLabels(file).load(load_dataset(shapes_dir, "train"), preset, masks=False)
    assert mixed.pseudo.image_path(0).is_file()


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory, fabric, shapes_dir, pseudo_file):
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    finetune(fabric, preset, shapes_dir, folder, InitialWeights("nearest"), pseudo=PseudoLabels(pseudo_file, 0.5))
    return folder


def test_a_run_records_its_pseudo_labels(mixed_run, pseudo_file):
    config = yaml.safe_load((mixed_run / "config.yaml").read_text())
    assert config["pseudo"] == {"file": str(pseudo_file), "weight": 0.5, "ratio": 1.0}
    log = (mixed_run / "log.txt").read_text()
    assert re.search(r"6 pseudo-labelled .*0\.5.* 1 labelled .* 1 pseudo-labelled", log)
    records = read_metrics(mixed_run)
    assert {"loss_mask", "loss_pseudo_mask", "loss_pseudo_classifier"} <= records[0].keys()
    assert "box/AP" in records[-1]


def test_a_resumed_run_equals_an_uninterrupted_one(fabric, preset, shapes_dir, pseudo_file, mixed_run, tmp_path):
    pseudo = PseudoLabels(pseudo_file, 0.5)
    preset = with_steps(preset, checkpoint_every=2)
    with interrupted_at_batch(3):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=pseudo)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 2
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True, pseudo=pseudo)
    assert_same_states(mixed_run, tmp_path / "run", ("detector", "detector_optimizer", "metrics", "step"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"weight": 1.0}, "pseudo.weight"),
        ({"ratio": 3.0}, "pseudo.ratio"),
        ({"file": "other"}, "pseudo.file"),
        (None, "pseudo"),
    ],
)
def test_resuming_with_other_pseudo_labels_is_an_error(
    fabric, preset, shapes_dir, pseudo_file, mixed_run, tmp_path, changes, key
):
    preset = with_steps(preset, batch_size=4 if changes and "ratio" in changes else 2)
    pseudo = None
    if changes is not None:
        if "file" in changes:
            content = json.loads(pseudo_file.read_text())
            content["annotations"].pop()
            changes = {"file": tmp_path / "other.json"}
            changes["file"].write_text(json.dumps(content))
        pseudo = PseudoLabels(**{"file": pseudo_file, "weight": 0.5, **changes})
    with pytest.raises(UserError) as error:
        finetune(fabric, preset, shapes_dir, mixed_run, InitialWeights("nearest"), resume=True, pseudo=pseudo)
    assert "config.yaml" in str(error.value)
    assert key in str(error.value)


@pytest.fixture
def finetune_error(fabric, preset, shapes_dir, tmp_path):
    """A function that returns the error of fine-tuning with ``pseudo``, which must leave no run."""

    def finetune_error(pseudo, fabric=fabric):
        with pytest.raises(UserError) as error:
            finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), pseudo=pseudo)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
        return str(error.value)

    return finetune_error


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"info": {}}, "info.image_folder"),
        ({"info": {"image_folder": "/nowhere"}}, "/nowhere"),
        ({"categories": [{"id": 1, "name": "coin"}], "annotations": []}, "'coin'"),
        ({"images": "none"}, "'images'"),
        ({"annotations": []}, "--threshold"),
    ],
)
def test_errors_of_an_unusable_file_name_it(finetune_error, shapes_dir, tmp_path, changes, fact):
    message = finetune_error(PseudoLabels(write_pseudo_file(tmp_path / "pseudo.json", shapes_dir, **changes)))
    assert "pseudo.json" in message
    assert fact in message


def test_labels_without_masks_do_not_train_masks(finetune_error, shapes_dir, pseudo_file, tmp_path):
    annotations = json.loads(pseudo_file.read_text())["annotations"]
    boxes = [{name: value for name, value in item.items() if name != "segmentation"} for item in annotations]
    file = write_pseudo_file(tmp_path / "pseudo.json", shapes_dir, annotations=boxes)
    assert re.search(r"pseudo\.json: .* mask.* mask-rcnn-r18-fpn-tiny", finetune_error(PseudoLabels(file)))


def test_a_batch_that_devices_cannot_share_leaves_no_run(finetune_error, pseudo_file, monkeypatch):
    monkeypatch.setattr("afictl.training.stage3.locked_folder", lambda *_: nullcontext())  # needs a process group
    assert "2 devices" in finetune_error(
        PseudoLabels(pseudo_file), SimpleNamespace(world_size=2, global_rank=0, device=torch.device("cpu"))
    )


def test_absent_images_are_an_error_before_the_run_begins(finetune_error, preset, shapes_dir, tmp_path):
    """Images without labels may be absent."""
    images = shutil.copytree(shapes_dir / "val2017", tmp_path / "images")
    content = json.loads((shapes_dir / "annotations" / "instances_val2017.json").read_text())
    unlabelled, absent, moved = (content["images"][k] for k in (0, 2, -1))
    (images / "inside").mkdir()
    (images / moved["file_name"]).rename(images / "inside" / "moved.jpg")
    moved["file_name"] = "inside/moved.jpg"
    annotations = [item for item in content["annotations"] if item["image_id"] != unlabelled["id"]]
    changes = {**content, "info": {"image_folder": str(images)}, "annotations": annotations}
    pseudo = PseudoLabels(write_pseudo_file(tmp_path / "pseudo.json", shapes_dir, **changes))
    count = len({item["image_id"] for item in annotations})
    (images / unlabelled["file_name"]).unlink()
    assert pseudo.load(load_dataset(shapes_dir, "train"), preset, masks=True)
    (images / "inside" / "moved.jpg").unlink()
    (images / absent["file_name"]).unlink()
    message = finetune_error(pseudo)
    for fact in ("pseudo.json: ", f"2 of its {count} ", str(images), absent["file_name"]):
        assert fact in message


def test_micro_batches_hold_their_share_of_both_groups(fabric, shapes_dir, pseudo_file, tmp_path):
    settings = ("detector.kind=retinanet", "backbone.norm=frozen-batch", "train.batch_size=8", "train.steps=2")
    small = [setting for setting in SMALL if "detector." not in setting]
    preset = load_preset("retinanet-r18-fpn-tiny", (*small, *settings, "train.ema_decay=0"))
    pseudo = PseudoLabels(pseudo_file, weight=0.5)
    for name, number in (("whole", 1), ("micro", 2)):
        output = tmp_path / name
        finetune(
            fabric, with_steps(preset, accumulate=number), shapes_dir, output, InitialWeights("nearest"), pseudo=pseudo
        )
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "micro")]
    torch.testing.assert_close(states[1]["detector"], states[0]["detector"], rtol=1e-4, atol=1e-5)
    assert "2 micro-batches a step, of 4 images each" in (tmp_path / "micro" / "log.txt").read_text()
    with pytest.raises(UserError, match="2 devices x 4 micro-batches"):
        pseudo.split_batch(8, 2, 4)
