"""Which label is which class, in every command, for data whose categories have other ids and another order."""

import json
from dataclasses import replace

import pytest
import torch

from afictl import load_preset
from afictl.data import load_dataset, read_image
from afictl.distributed import Runtime
from afictl.evaluation import detect
from afictl.evaluation.pseudo_labels import write_pseudo_labels
from afictl.tensor_files import read_tensors
from afictl.training import InitialWeights, PseudoLabels, finetune, pretrain
from afictl.visualization import NamedDetectors
from afictl.weights import load_detector
from tests.helpers.changed_data import change_annotations, renumber
from tests.helpers.pseudo_files import write_pseudo_file
from tests.helpers.tiny_runs import SMALL, assert_same_states

RUNTIME = Runtime(workers=0)
RENUMBERED_CLASSES = ("cross", "triangle", "square", "disc")


@pytest.fixture(scope="module")
def renumbered(shapes_dir, tmp_path_factory):
    """The shapes with other ids, which reverse the order of the classes."""
    data = change_annotations(shapes_dir, tmp_path_factory.mktemp("data") / "renumbered", renumber)
    assert load_dataset(data, "train").classes == RENUMBERED_CLASSES
    return data


@pytest.fixture(scope="module")
def loaded(guide_run):
    """The guide with low scores in its detections, as it was trained for four steps only."""
    loaded = load_detector(guide_run)
    loaded.detector.head.score_threshold = 0.0
    return loaded


def named_results(detector, data, path):
    """Detections by name of their image file and class."""
    dataset = load_dataset(data, "val")
    detect(detector.detector, dataset, path, RUNTIME, classes=detector.classes)
    files = dict(zip(dataset.image_ids, dataset.file_names, strict=True))
    names = dict(zip(dataset.category_ids, dataset.classes, strict=True))
    return [
        (files[result["image_id"]], names[result["category_id"]], result["bbox"], result["score"])
        for result in json.loads(path.read_text())
    ]


def test_detections_have_the_same_names(loaded, shapes_dir, renumbered, tmp_path):
    expected = named_results(loaded, shapes_dir, tmp_path / "a.json")
    assert len({name for _, name, *_ in expected}) > 1
    assert named_results(loaded, renumbered, tmp_path / "b.json") == expected


def test_drawn_detections_have_the_same_names(loaded, shapes_dir, renumbered):
    image = read_image(load_dataset(shapes_dir, "val").image_path(0))
    drawn = []
    for data in (shapes_dir, renumbered):
        detectors = NamedDetectors.of({"run": loaded}, load_dataset(data, "val"))
        detection = detectors.detect("run", image, 0.0)
        drawn.append([detectors.classes[label - 1] for label in detection["labels"].tolist()])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1


def test_initial_weights_and_pseudo_labels_train_the_same_classes(fabric, shapes_dir, renumbered, guide_run, tmp_path):
    """Bit for bit, on renumbered data with pseudo labels of either order."""
    preset = load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, "train.steps=1", "train.eval_every=1"))
    initial = InitialWeights("nearest", weights=guide_run)
    for name, data, source in (("a", shapes_dir, renumbered), ("b", renumbered, shapes_dir)):
        pseudo = PseudoLabels(write_pseudo_file(tmp_path / f"{name}.json", source))
        finetune(fabric, preset, data, tmp_path / name, initial, pseudo=pseudo)
    assert_same_states(tmp_path / "a", tmp_path / "b", ("detector", "detector_optimizer", "metrics"))
    assert read_tensors(tmp_path / "b" / "last.safetensors")[1]["classes"] == list(RENUMBERED_CLASSES[::-1])


def test_pseudo_labels_have_the_names_of_the_teacher(loaded, shapes_dir, renumbered, tmp_path):
    """Whatever ids the data of the teacher had."""
    ids = dict(
        zip(*(getattr(load_dataset(renumbered, "train"), key) for key in ("classes", "category_ids")), strict=True)
    )
    other = replace(loaded, metadata={**loaded.metadata, "category_ids": [ids[name] for name in loaded.classes]})
    files = sorted((shapes_dir / "val2017").iterdir())[:2]
    labels = []
    for number, teacher in enumerate((loaded, other)):
        file = tmp_path / f"{number}.json"
        write_pseudo_labels(teacher, files, shapes_dir / "val2017", file, [0.0] * 4, RUNTIME, info={})
        content = json.loads(file.read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        labels.append([(names[item["category_id"]], item["bbox"]) for item in content["annotations"]])
    assert labels[0] == labels[1]
    assert len({name for name, _ in labels[0]}) > 1


def test_stage_2_trains_the_classes_of_the_guide(fabric, shapes_dir, renumbered, guide_run, tmp_path):
    settings = [f"{stage}.{key}=1" for stage in ("stage1", "stage2") for key in ("steps", "eval_every")]
    for name, data in (("a", shapes_dir), ("b", renumbered)):
        pretrain(fabric, guide_run, data, tmp_path / name, overrides=settings)
    stages = [tmp_path / name / "stage2" for name in "ab"]
    assert_same_states(*stages, ("student", "discriminator", "metrics"))
    state = torch.load(stages[0] / "state.pt", weights_only=True)
    assert state["step"] == 1
