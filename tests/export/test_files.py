"""Exported detectors and interpolators: results of ONNX Runtime and of torch.export beside those of PyTorch."""

import io
import json
from pathlib import Path

import pytest
import torch

from afictl import UserError, build_interpolator
from afictl.detectors import build_detector
from afictl.detectors.masks import paste_masks
from afictl.export.differences import detection_differences, require_small
from afictl.export.files import export_detector, export_interpolator
from afictl.export.formats import DESCRIPTION
from afictl.export.graphs import paste_in_graph
from afictl.interpolators import PerStepInterpolator
from afictl.weights import LoadedDetector, LoadReport
from tests.helpers.narrow_presets import narrow_preset

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SMALL = ("input.test_size=64", "backbone.pretrained=false")
FORMS = ("onnx", "torch-export")
KINDS = ("faster-rcnn", "mask-rcnn", "cascade-rcnn", "retinanet", "fcos")
FAMILIES = [
    *(pytest.param(f"{kind}-r18-fpn-tiny", marks=pytest.mark.slow) for kind in KINDS),
    pytest.param("centermask-r18-bifpn-tiny", marks=pytest.mark.slow),
    *(pytest.param(f"{kind}-lite0-fpn", marks=pytest.mark.slow) for kind in ("faster-rcnn", "fcos")),
]
"""The tiny ones with a small ResNet, the last two with EfficientNet-Lite0 and TensorFlow's padding."""


def loaded(name: str) -> LoadedDetector:
    """A detector with random weights, whose scores differ from each other and whose masks are far from one half."""
    torch.manual_seed(0)
    backbone = () if "lite0" in name else ("backbone.name=test_resnet",)
    preset = narrow_preset(name, *SMALL, *backbone)
    detector = build_detector(preset, num_classes=3, interpolator="nearest").eval()
    for part, parameter in detector.named_parameters():
        if "mask_predictor.logits" in part:
            torch.nn.init.normal_(parameter, std=1.0)
        elif "class_logits" in part:
            torch.nn.init.normal_(parameter, std=0.1)
        elif "class_tower" in part and parameter.ndim == 4:  # as initialised, all positions would have equal scores
            torch.nn.init.kaiming_normal_(parameter)
    report = LoadReport((), (), (), ())
    return LoadedDetector(detector, preset, ("a", "b", "c"), {"category_ids": [4, 5, 6]}, report)


@torch.no_grad()
def silence(detector: LoadedDetector) -> None:
    """Make every class but background improbable at every position and in every region."""
    for part, parameter in detector.detector.named_parameters():
        if part.endswith(("class_logits.bias", "cls_score.bias")):
            parameter.fill_(-1e4)
        if part.endswith("cls_score.bias"):
            parameter[0] = 1e4


def description(form: str, path: Path) -> dict:
    """What a file says about its detector."""
    if form == "onnx":
        return {prop.key: json.loads(prop.value) for prop in onnx.load(path).metadata_props}
    files = {DESCRIPTION: ""}
    torch.export.load(io.BytesIO(path.read_bytes()), extra_files=files)
    return json.loads(files[DESCRIPTION])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_a_detector_of_every_family(form, name, tmp_path):
    image = torch.rand(3, 141, 190)
    checks = export_detector(loaded(name), form, tmp_path / "detector", {"image": image})
    assert len({check.size_hw for check in checks}) == 3
    assert all(check.detections for check in checks)
    assert len(list(tmp_path.iterdir())) == 1
    about = description(form, tmp_path / "detector")
    assert (about["classes"], about["category_ids"]) == (["a", "b", "c"], [4, 5, 6])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("form", FORMS)
def test_a_detector_of_every_family_without_detections(form, name, tmp_path):
    detector = loaded(name)
    silence(detector)
    detector.metadata.clear()
    checks = export_detector(detector, form, tmp_path / "detector", {})
    assert [check.detections for check in checks] == [0, 0]
    assert description(form, tmp_path / "detector")["category_ids"] == [1, 2, 3]  # those of afictl predict


@pytest.mark.parametrize("kind", ["bilinear", pytest.param("afi-lite", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_an_interpolator_alone(kind, form, tmp_path):
    torch.manual_seed(0)
    interpolator = build_interpolator(kind, 8)
    for parameter in interpolator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path / "interpolator"
    checks = export_interpolator(interpolator, form, path)
    assert [check.size_hw for check in checks] == [(7, 9), (12, 5)]
    assert path.is_file()


def test_interpolators_for_each_enlargement_have_no_file_of_one(tmp_path):
    steps = PerStepInterpolator([build_interpolator("afi-lite", 8) for _ in range(2)])
    with pytest.raises(UserError, match="--part detector"):
        export_interpolator(steps, "onnx", tmp_path / "interpolator.onnx")


def test_pasted_masks_are_those_of_the_detector():
    torch.manual_seed(0)
    probs = torch.rand(5, 28, 28)
    boxes = torch.tensor([[-3.5, 2.0, 20.2, 31.7], [0, 0, 60, 40], [5, 5, 5.3, 6], [55, 30, 80, 60], [9, 9, 9, 12]])
    expected = paste_masks(probs, boxes, (40, 60))
    assert expected[:4].any(dim=(1, 2)).any()
    assert torch.equal(paste_in_graph(probs, boxes, (40, 60)), expected)
    assert paste_in_graph(probs[:0], boxes[:0], (40, 60)).shape == (0, 40, 60)


def detections(*boxes, labels=(1, 2), scores=(0.9, 0.899999)):
    return {"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def test_detections_of_almost_equal_scores_may_change_places():
    first, second = [0.0, 0, 10, 10], [20.0, 0, 30, 10]
    expected = detections(first, second)
    swapped = detections(second, [0.0, 0, 10, 10.05], labels=(2, 1))
    differences = detection_differences(swapped, expected)
    assert differences["boxes"] == pytest.approx(0.05, abs=1e-4)
    require_small(differences, "image")
    with pytest.raises(UserError, match=r"image: boxes .* 0\.2"):
        require_small(differences | {"boxes": 0.2}, "image")


@pytest.mark.parametrize(
    "actual",
    [
        detections([0.0, 0, 10, 10], labels=(1,), scores=(0.9,)),  # one is missing
        detections([0.0, 0, 10, 10], [20.0, 0, 30, 10], labels=(1, 1)),  # another label
        detections([0.0, 0, 10, 10], [0.0, 0, 10, 10], labels=(2, 2)),  # one twice
    ],
)
def test_other_detections_are_refused(actual):
    with pytest.raises(UserError, match="detections"):
        detection_differences(actual, detections([0.0, 0, 10, 10], [20.0, 0, 30, 10]))


def test_nothing_is_written_where_results_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("afictl.export.files.MAP_TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differ"):
        export_interpolator(build_interpolator("bilinear", 4), "torch-export", tmp_path / "interpolator.pt2")
    assert not list(tmp_path.iterdir())
