"""Class names that a checkpoint holds are those of its detector, in their order, and contradictions are errors."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afictl import build_detector, load_preset
from afictl.errors import UserError
from afictl.evaluation.category_matching import match_categories
from afictl.weights import load_detector, read_checkpoint
from afictl.weights.conversion import convert
from afictl.weights.layouts import to_afictl
from tests.helpers.foreign_checkpoints import to_detectron2

NAMES = ("truck", "car")


@pytest.fixture(scope="module")
def tensors():
    settings = ("backbone.name=resnet18", "neck.channels=16", "detector.fc_width=16")
    preset = load_preset("faster-rcnn-r18-fpn-tiny", settings)
    return to_detectron2(build_detector(preset, num_classes=2, interpolator="nearest"))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.safetensors"


@pytest.fixture
def checkpoint(tmp_path, tensors):
    """A function that saves the detector of two classes beside ``content``."""

    def save(**content):
        torch.save({"state_dict": tensors, **content}, tmp_path / "epoch_12.pth")
        return tmp_path / "epoch_12.pth"

    return save


def annotation_file(folder, *names):
    file = folder / "instances.json"
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(names, start=1)]
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    return str(file)


@pytest.mark.parametrize(
    "content",
    [
        {"meta": {"CLASSES": NAMES}},  # mmdetection 2
        {"meta": {"dataset_meta": {"classes": NAMES}}},  # mmdetection 3
        {"meta": {"dataset_meta": {"CLASSES": [f"{name}\n" for name in NAMES]}}},  # lines of a file
        {"hyper_parameters": {"id2label": {0: "truck", 1: "car"}}},
        {"args": {"class_to_idx": {"car": 2, "truck": 1}}},
        {"categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "truck"}]},
        {"names": ["__background__", *NAMES]},
    ],
)
def test_names_in_the_file_are_those_of_the_detector(checkpoint, content):
    assert to_afictl(read_checkpoint(checkpoint(**content))).metadata["classes"] == list(NAMES)


def test_names_in_the_file_are_kept(checkpoint, target):
    convert(checkpoint(meta={"CLASSES": NAMES}), target)
    assert load_detector(target).classes == NAMES


@pytest.mark.parametrize("own", [False, True])
def test_given_names_are_held_against_those_in_the_file(checkpoint, target, tmp_path, own):
    source = checkpoint(meta={"CLASSES": NAMES})
    if own:
        convert(source, tmp_path / "first.safetensors")
        source = tmp_path / "first.safetensors"
    for classes, problem in (("car,truck", "another order"), ("cat,dog", "other names")):
        with pytest.raises(UserError, match=rf"--classes: .*{problem} .*{source.name}, .* truck, car"):
            convert(source, target, classes=classes)
    with pytest.raises(UserError, match="other names"):
        convert(source, target, classes=annotation_file(tmp_path, "cat", "dog"))
    convert(source, target, classes="truck,car")
    assert not any("order" in line for line in convert(source, target, classes="truck,car"))


def test_annotations_give_their_ids_by_name(checkpoint, target, tmp_path):
    """The order of their ids says nothing about the labels of a checkpoint that has names."""
    lines = convert(checkpoint(meta={"CLASSES": NAMES}), target, classes=annotation_file(tmp_path, "car", "truck"))
    loaded = load_detector(target)
    assert loaded.classes == NAMES
    assert loaded.metadata["category_ids"] == [20, 10]
    assert any("order of the checkpoint" in line for line in lines)


def test_assumed_names_may_be_replaced(checkpoint, target, tmp_path):
    convert(checkpoint(), tmp_path / "first.safetensors")
    assert load_detector(tmp_path / "first.safetensors").classes == ("class_1", "class_2")
    convert(tmp_path / "first.safetensors", target, classes=annotation_file(tmp_path, "car", "truck"))
    assert load_detector(target).classes == ("car", "truck")


def test_names_of_another_number_of_classes_are_told(checkpoint, target):
    lines = convert(checkpoint(meta={"CLASSES": ("truck", "car", "bus", "van")}), target)
    (note,) = (line for line in lines if "do not fit" in line)
    assert "4 class names (truck, car, bus, ...)" in note
    assert "2 classes" in note
    assert load_detector(checkpoint(meta={"CLASSES": ("truck",)})).report.notes


@pytest.mark.parametrize(
    ("names", "advice"),
    [(("car", "truck"), "afictl convert IN OUT --classes"), (("car",), "afictl finetune --weights")],
)
def test_the_advice_on_assumed_names_can_be_followed(names, advice):
    dataset = SimpleNamespace(classes=names, category_ids=range(1, len(names) + 1), annotation_file=Path("val.json"))
    with pytest.raises(UserError, match=advice):
        match_categories(("class_1", "class_2"), dataset)
