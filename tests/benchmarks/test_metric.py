import json
import math

import pytest

from benchmarks import metric
from benchmarks.detections_file import DETECTIONS, write_detections
from benchmarks.metric import max_difference


@pytest.mark.slow
def test_both_libraries_give_the_same_metrics(tmp_path, capsys):
    metric.main(["--count", "12", "--masks", "--json", str(tmp_path / "figures.json")])
    assert "pycocotools" in capsys.readouterr().out
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert list(results) == ["box", "box,mask"]
    for kinds, figures in results.items():
        assert figures["worst_difference"] < 1e-6
        assert figures["numbers"] == (6 + 2 * 80) * (1 + ("mask" in kinds))
        assert figures["ratio"] == pytest.approx(figures["pycocotools"]["seconds"] / figures["afictl"]["seconds"])


def test_generated_files_are_consistent_and_reproducible(tmp_path):
    ground_truth, predictions = write_detections(tmp_path, 30, masks=True)
    content, detections = json.loads(ground_truth.read_text()), json.loads(predictions.read_text())
    assert len(content["images"]) == 30
    assert len(detections) == 30 * DETECTIONS
    assert 3 < len(content["annotations"]) / 30 < 15
    assert {item["image_id"] for item in detections} == {item["id"] for item in content["images"]}
    first = predictions.read_bytes()
    write_detections(tmp_path, 30, masks=True)
    assert predictions.read_bytes() == first


@pytest.mark.parametrize(
    ("actual", "difference"), [({"a": 1.5, "b": None}, 0.5), ({"a": None, "b": None}, math.inf), ({"a": 1.0}, math.inf)]
)
def test_max_difference(actual, difference):
    assert max_difference({"a": 1.0, "b": None}, actual) == difference
