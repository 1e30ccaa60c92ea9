"""Class names that a checkpoint of another project holds are those of its detector, in their order."""

import json

import pytest
import torch

from afictl import build_detector, load_preset
from afictl.errors import UserError
from afictl.weights import load_detector
from afictl.weights.conversion import convert
from tests.helpers.foreign_checkpoints import to_detectron2


@pytest.fixture(scope="module")
def tensors():
    preset = load_preset("faster-rcnn-r50-fpn")
    return to_detectron2(build_detector(preset, num_classes=2, interpolator="nearest"))


@pytest.mark.parametrize("meta", [{"CLASSES": ("truck", "car")}, {"dataset_meta": {"classes": ("truck", "car")}}])
def test_names_in_the_file_are_kept_and_held_against_the_given_ones(tmp_path, tensors, meta):
    source, target, annotations = tmp_path / "epoch_12.pth", tmp_path / "out.safetensors", tmp_path / "instances.json"
    torch.save({"state_dict": tensors, "meta": meta}, source)
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "truck"}]
    annotations.write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    convert(source, target)
    assert list(load_detector(target).classes) == ["truck", "car"]
    for classes in (str(annotations), "car,truck"):
        with pytest.raises(UserError, match=r"--classes: in another order than in .*epoch_12\.pth, .* truck, car"):
            convert(source, target, classes=classes)
    with pytest.raises(UserError, match=r"--classes: other names than in .*truck, car"):
        convert(source, target, classes="cat,dog")
    convert(source, target, classes="truck,car")
