"""Models of torchvision train, evaluate, compare and draw as this package's detectors, on tiny images."""

import json
import shutil

import pytest
import torch
from torchvision.models import detection

from afictl import AFInterpolator, UserError, build_detector, load_preset
from afictl.data import load_dataset, make_shapes
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune, pretrain
from afictl.training.run_writer import RunWriter
from afictl.training.stage2 import build_student
from afictl.weights import detector_classes, load_detector, read_checkpoint
from tests.helpers.foreign_models import assert_compares_and_draws, assert_evaluates_as_in_training
from tests.helpers.tiny_runs import drop_states, without_kind
from tests.helpers.torchvision_files import COCO, save_torchvision

TINY = (
    "backbone.pretrained=false",
    "backbone.frozen_stages=4",
    "detector.roi_batch=8",
    "detector.proposals_train=20",
    "detector.proposals_test=10",
    "detector.max_detections=4",
    "input.min_sizes=[64]",
    "input.test_size=64",
    "interpolator.kind=afi",
    "interpolator.options={blocks: 1, growth: 4}",
    "loader.workers=0",
    *(f"{stage}.{key}" for stage in ("train", "stage1", "stage2") for key in ("steps=1", "batch_size=2", "lr=0.001")),
)
TINY_DENSE = tuple(setting for setting in TINY if "proposals" not in setting and "roi_batch" not in setting)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("few") / "shapes", train=2, val=1, size=64)


@pytest.fixture(scope="module")
def guide_run(tmp_path_factory, fabric, data):
    folder = tmp_path_factory.mktemp("runs") / "guide"
    preset = load_preset("torchvision:maskrcnn_resnet50_fpn", [*TINY, "train.ema_decay=0.9"])
    finetune(fabric, preset, data, folder, InitialWeights("nearest"))
    drop_states(folder)
    return folder


def test_a_run_stores_the_model_under_its_tensor_names(guide_run, data):
    names = read_checkpoint(guide_run).tensors.keys()
    expected = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    assert names == {f"model.{name}" for name in expected if "body" not in name or "num_batches" not in name}
    assert {"loss_mask", "loss_classifier"} <= read_metrics(guide_run)[0].keys()
    assert load_detector(guide_run).preset.name == "torchvision:maskrcnn_resnet50_fpn"
    assert_evaluates_as_in_training(guide_run, data)


@pytest.mark.slow
def test_a_detector_is_finetuned_with_an_interpolator_pretrained_on_the_run(fabric, guide_run, data, tmp_path):
    interpolator = pretrain(fabric, guide_run, data, tmp_path / "pretrain", overrides=without_kind(TINY))
    drop_states(tmp_path)
    student = load_detector(tmp_path / "pretrain" / "stage2")
    assert student.preset.detector.anchor_sizes == (16, 32, 64, 128, 256)
    assert student.detector.model.rpn.anchor_generator.sizes[0] == (16,)
    finetune(fabric, student.preset, data, tmp_path / "run", InitialWeights(str(interpolator), weights=guide_run))
    finetuned = load_detector(tmp_path / "run")
    assert finetuned.preset.interpolator.kind == finetuned.detector.neck.interpolator.kind == "afi"
    assert f"interpolator: {interpolator} " in (tmp_path / "run" / "log.txt").read_text()


@pytest.mark.slow
def test_interpolators_are_compared_and_detections_drawn(fabric, data, tmp_path):
    preset = load_preset("torchvision:retinanet_resnet50_fpn_v2", TINY_DENSE)
    assert_compares_and_draws(fabric, preset, data, tmp_path)


def test_a_student_of_a_dense_model_has_half_the_anchors():
    for name, sizes in (("fcos_resnet50_fpn", (4,)), ("retinanet_resnet50_fpn", (16, 20, 25))):
        preset = load_preset(f"torchvision:{name}", TINY_DENSE)
        with torch.device("meta"):
            guide = build_detector(preset, 3, "nearest")
            student = build_student(guide, preset, AFInterpolator(256, blocks=1, growth=4))
        assert student.model.anchor_generator.sizes[0] == sizes


def test_labels_of_torchvision_coco_weights_stay_coco_ids(fabric, data, tmp_path, monkeypatch):
    """Of 90 labels, a dataset of the 80 COCO classes uses 80; here one of four of them."""
    monkeypatch.setattr(RunWriter, "save_state", lambda run, state: None)  # half a gigabyte, which is not read here
    save_torchvision(tmp_path / "coco.pth", "fasterrcnn_resnet50_fpn", 91)
    classes = detector_classes(tmp_path / "coco.pth")
    assert classes[0] == "person"
    assert len(classes) == 90
    coco = write_coco_classes(data, tmp_path / "data")
    index = load_dataset(coco, "train")
    assert len(index.classes) == 80
    ordered = index.in_label_order(classes)
    assert {ordered.classes[label - 1] for label in ordered.arrays["labels"].tolist()} == {
        index.classes[label - 1] for label in index.arrays["labels"].tolist()
    }
    preset = load_preset("torchvision:fasterrcnn_resnet50_fpn", TINY)
    finetune(fabric, preset, coco, tmp_path / "run", InitialWeights(weights=tmp_path / "coco.pth"))
    assert detector_classes(tmp_path / "run") == classes
    assert "initialised anew" not in (tmp_path / "run" / "log.txt").read_text()
    settings = [setting for setting in TINY if not setting.startswith(("backbone.", "interpolator"))]
    pretrain(fabric, tmp_path / "coco.pth", coco, tmp_path / "pretrain", stages=(1,), overrides=settings)
    with pytest.raises(UserError, match=r"train2017\.json.* guide "):
        pretrain(fabric, tmp_path / "coco.pth", data, tmp_path / "other", overrides=settings)


def write_coco_classes(source, target):
    """A copy of the shapes whose classes are called as the last four of the 80 COCO classes."""
    shutil.copytree(source, target)
    names = [name for name in COCO[1:] if name != "N/A"]
    for file in (target / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        ids = sorted(category["id"] for category in content["categories"])
        coco_ids = [COCO.index(name) for name in names]
        for item in content["annotations"]:
            item["category_id"] = coco_ids[-4:][ids.index(item["category_id"])]
        content["categories"] = [{"id": number, "name": COCO[number]} for number in coco_ids]
        file.write_text(json.dumps(content))
    return target
