"""The benchmark of the metric compares equal things and tells when they are not."""

import json
import math

import pytest
from typer.testing import CliRunner

from afictl.cli.benchmark import app
from afictl.comparison.benchmarks.detections_file import DETECTIONS, write_detections
from afictl.comparison.benchmarks.metric import _worst


def test_both_find_the_same_numbers(tmp_path):
    arguments = ["metric", "--count", "12", "--masks", "--json", str(tmp_path / "figures.json")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "pycocotools" in result.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    for kinds, found in figures["results"].items():
        assert found["worst_difference"] < 1e-6
        assert found["numbers"] == (6 + 2 * 80) * (1 + ("mask" in kinds))
        assert found["ratio"] == pytest.approx(found["pycocotools"]["seconds"] / found["afictl"]["seconds"])


def test_the_generated_files_are_as_they_say(tmp_path):
    truth, found = write_detections(tmp_path, 30, masks=True)
    content, results = json.loads(truth.read_text()), json.loads(found.read_text())
    assert len(content["images"]) == 30
    assert len(results) == 30 * DETECTIONS
    assert 3 < len(content["annotations"]) / 30 < 15
    assert {item["image_id"] for item in results} == {item["id"] for item in content["images"]}
    before = found.read_bytes()
    write_detections(tmp_path, 30, masks=True)
    assert found.read_bytes() == before


@pytest.mark.parametrize(
    ("ours", "expected"), [({"a": 1.5, "b": None}, 0.5), ({"a": None, "b": None}, math.inf), ({"a": 1.0}, math.inf)]
)
def test_a_difference_is_told(ours, expected):
    assert _worst({"a": 1.0, "b": None}, ours) == expected
