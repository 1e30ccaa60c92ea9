"""Which images the report shows, and how many bytes they take."""

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from afictl.comparison.report.pictures import draw_gallery
from afictl.data import make_shapes
from tests.helpers.comparisons import make_comparison


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    data = make_shapes(folder / "data", train=1, val=3, size=96)
    return make_comparison(data, folder / "runs", seeds=1)


def test_the_image_with_the_most_differences_comes_first(comparison, tmp_path):
    """Only ``bilinear`` differs: one object fewer in image 1, all in image 2."""
    whole = json.loads((comparison.methods[0].runs[0].folder / "predictions.json").read_text())
    whole = [{**row, "score": 0.9} for row in whole]
    first = next(row for row in whole if row["image_id"] == 1)
    less = [row for row in whole if row["image_id"] != 2 and row is not first]
    methods = []
    for method, rows in zip(comparison.methods, (whole, less, whole), strict=True):
        (tmp_path / method.name).mkdir()
        (tmp_path / method.name / "predictions.json").write_text(json.dumps(rows))
        cell = replace(method.runs[0], folder=tmp_path / method.name)
        methods.append(replace(method, runs=(cell,)))
    gallery = draw_gallery(replace(comparison, methods=tuple(methods)), 1_000_000)
    assert [shot.name for shot in gallery.shots] == ["000002.jpg", "000001.jpg"]
    assert gallery.choices == ["Ground truth", "nearest", "bilinear", "bicubic"]
    assert gallery.shots[0].drawings[2].note == "0 detections"
    assert not gallery.notes
    notes = {drawing.choice: drawing.note for drawing in gallery.shots[1].drawings}
    count = sum(row["image_id"] == 1 for row in whole)
    assert notes["nearest"] == notes["bicubic"] == f"{count} detections, 1 not found by all (*)"
    assert notes["bilinear"] == f"{count - 1} detections"
    assert "*" not in notes["Ground truth"]


def test_what_a_method_finds_with_less_confidence_is_not_marked(comparison, tmp_path):
    """Of image 1 ``bilinear`` finds one object below the threshold and lacks another."""
    rows = json.loads((comparison.methods[0].runs[0].folder / "predictions.json").read_text())
    rows = [{**row, "score": 0.9} for row in rows]
    weak = next(row for row in rows if row["image_id"] == 1)
    gone = next(row for row in rows if row["image_id"] == 1 and row is not weak)
    less = [{**row, "score": 0.3} if row is weak else row for row in rows if row is not gone]
    methods = []
    for method, found in zip(comparison.methods[:2], (rows, less), strict=True):
        (tmp_path / method.name).mkdir()
        (tmp_path / method.name / "predictions.json").write_text(json.dumps(found))
        methods.append(replace(method, runs=(replace(method.runs[0], folder=tmp_path / method.name),)))
    (shot,) = draw_gallery(replace(comparison, methods=tuple(methods)), 1_000_000).shots
    count = sum(row["image_id"] == 1 for row in rows)
    assert [drawing.note for drawing in shot.drawings[1:]] == [
        f"{count} detections, 1 not found by all (*)",
        f"{count - 2} detection{'s' * (count != 3)}",
    ]


@pytest.mark.parametrize("budget", [120_000, 400_000, 7_000_000])
def test_pictures_stay_within_the_budget(comparison, budget):
    gallery = draw_gallery(comparison, budget)
    sources = [drawing.source for shot in gallery.shots for drawing in shot.drawings]
    assert 0 < sum(map(len, sources)) <= budget
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.width >= 400


def test_without_room_there_is_no_picture(comparison):
    assert draw_gallery(comparison, 1000).shots == ()


def test_what_is_missing_is_told(comparison, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "predictions.json").write_text('[{"image_id": 1}]')
    cell = replace(comparison.methods[2].runs[0], folder=broken)
    methods = (*comparison.methods[:2], replace(comparison.methods[2], runs=(cell,)))
    gallery = draw_gallery(replace(comparison, methods=methods), 1_000_000)
    assert gallery.choices == ["Ground truth", "nearest", "bilinear"]
    assert "bicubic is not shown" in gallery.notes[0]
    assert "not a JSON list of COCO results" in gallery.notes[0]
    lost = draw_gallery(replace(comparison, image_dir=tmp_path / "nowhere"), 1_000_000)
    assert lost.shots == ()
    assert "does not exist" in lost.notes[0]
    gone = draw_gallery(replace(comparison, annotation_file=tmp_path / "gone.json"), 1_000_000)
    assert "ground truth cannot be read" in gone.notes[0]
