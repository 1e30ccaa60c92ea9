"""The example that compares an exported detector with ``afictl predict``."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.tiny_runs import SMALL, set_flags

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[2] / "examples" / "exported_detector.py"
LITE0 = [setting for setting in SMALL if not setting.startswith("backbone.")]
LONGER = ("train.steps=40", "train.eval_every=40", "train.warmup_steps=0", "detector.score_threshold=0.01")
"""After these steps FCOS has scores above this threshold."""


@pytest.fixture
def compare(monkeypatch, capsys):
    """A function that runs the example.

    It gives the numbers of detections, of images and of close boxes, and the median and largest difference of boxes
    and of scores.
    """

    def run(detector, predictions):
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(detector), str(predictions)])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
        return [float(number) for number in re.findall(r"\d[\d.e-]*|inf", capsys.readouterr().out)]

    return run


def write_constant_detector(path, outputs, properties):
    """An ONNX file that gives the same ``outputs``, arrays by name, for every image."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [3, "height", "width"])
    tensors = {name: onnx.numpy_helper.from_array(values) for name, values in outputs.items()}
    nodes = [onnx.helper.make_node("Constant", [], [name], value=tensor) for name, tensor in tensors.items()]
    values = [onnx.helper.make_tensor_value_info(name, of.data_type, of.dims) for name, of in tensors.items()]
    graph = onnx.helper.make_graph(nodes, "constant", [image], values)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in properties.items()})
    onnx.save(model, path)


@pytest.fixture
def files(tmp_path):
    """An ONNX file with two detections, and a folder of predictions for one image of twice the test size."""
    boxes = np.float32([[1, 2, 11, 12], [1, 2, 11, 12.5]])
    outputs = {"boxes": boxes, "labels": np.int64([1, 2]), "scores": np.float32([0.9, 0.5])}
    properties = {"test_size": 50, "max_size": 200, "category_ids": [7, 9]}
    write_constant_detector(tmp_path / "detector.onnx", outputs, properties)
    Image.new("RGB", (160, 100)).save(tmp_path / "image.png")
    info = {"images": [{"id": 1, "file_name": str(tmp_path / "image.png")}]}
    (tmp_path / "image_info.json").write_text(json.dumps(info))
    return tmp_path


def write_predictions(folder, *predictions):
    records = [dict(zip(("image_id", "category_id", "bbox", "score"), record, strict=True)) for record in predictions]
    (folder / "predictions.json").write_text(json.dumps(records))


def test_differences_are_in_pixels_of_the_image_file(compare, files):
    write_predictions(files, (1, 9, [2, 4, 20, 21.25], 0.51), (1, 7, [2, 4, 20, 20], 0.9))
    assert compare(files / "detector.onnx", files) == [2, 1, 2, 0.12, 0.25, 0.005, 0.01]


def test_a_detection_without_counterpart_differs_infinitely(compare, files):
    write_predictions(files, (1, 8, [2, 4, 20, 20], 0.9))
    assert compare(files / "detector.onnx", files) == [1, 1, 0, *[np.inf] * 4]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["faster-rcnn", "fcos"])
def test_a_trained_lite0_detector_agrees_with_predict(kind, afictl, compare, shapes_dir, tmp_path):
    run, file, predictions = tmp_path / "run", tmp_path / "detector.onnx", tmp_path / "predictions"
    settings = (setting for setting in LITE0 if kind == "faster-rcnn" or not setting.startswith("detector."))
    settings = ("backbone.pretrained=false", *settings, *LONGER)
    preset = ("--preset", f"{kind}-lite0-fpn", *set_flags(settings))
    for command in (
        ("finetune", *preset, "--data", shapes_dir, "--interpolator", "nearest", "--output", run),
        ("export", "--weights", run, "--output", file),
        ("predict", "--weights", run, shapes_dir / "val2017", "--threshold", "0", "--output", predictions),
    ):
        code, _, errors = afictl(*command)
        assert code == 0, errors
    detections, images, close, *differences = compare(file, predictions)
    assert images == 6
    assert detections == close > 0
    assert all(difference < 1e-3 for difference in differences)
