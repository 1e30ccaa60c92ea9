"""Selection of the gallery's images, and their size in bytes."""

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from afictl.comparison.report.detection_gallery import draw_gallery
from afictl.data import make_shapes
from tests.helpers.comparisons import make_comparison, with_images


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    data = make_shapes(folder / "data", train=1, val=3, size=96)
    return make_comparison(data, folder / "runs", seeds=1)


def confident_predictions(comparison):
    """The predictions of the first run, all with score 0.9."""
    rows = json.loads((comparison.methods[0].runs[0].folder / "predictions.json").read_text())
    return [{**row, "score": 0.9} for row in rows]


def with_predictions(methods, predictions, folder):
    """``methods``, of which each has one run with the predictions of the same index."""
    changed = []
    for method, rows in zip(methods, predictions, strict=True):
        (folder / method.name).mkdir()
        (folder / method.name / "predictions.json").write_text(json.dumps(rows))
        changed.append(replace(method, runs=(replace(method.runs[0], folder=folder / method.name),)))
    return tuple(changed)


def test_images_are_ordered_by_disagreement(comparison, tmp_path):
    """Only ``bilinear`` differs: one object fewer in image 1, all in image 2."""
    rows = confident_predictions(comparison)
    first = next(row for row in rows if row["image_id"] == 1)
    fewer = [row for row in rows if row["image_id"] != 2 and row is not first]
    methods = with_predictions(comparison.methods, (rows, fewer, rows), tmp_path)
    gallery = draw_gallery(replace(comparison, methods=methods), 1_000_000)
    assert [image.name for image in gallery.images] == ["000002.jpg", "000001.jpg"]
    assert gallery.panel_titles == ["Ground truth", "nearest", "bilinear", "bicubic"]
    assert gallery.images[0].panels[2].note == "0 detections"
    assert not gallery.notes
    notes = {panel.title: panel.note for panel in gallery.images[1].panels}
    count = sum(row["image_id"] == 1 for row in rows)
    assert notes["nearest"] == notes["bicubic"] == f"{count} detections, 1 absent from another panel (*)"
    assert notes["bilinear"] == f"{count - 1} detections"
    assert "*" not in notes["Ground truth"]


def test_detections_with_a_partner_below_the_threshold_are_not_marked(comparison, tmp_path):
    """In image 1 ``bilinear`` has one detection below the threshold and misses another."""
    rows = confident_predictions(comparison)
    weak = next(row for row in rows if row["image_id"] == 1)
    missing = next(row for row in rows if row["image_id"] == 1 and row is not weak)
    fewer = [{**row, "score": 0.3} if row is weak else row for row in rows if row is not missing]
    methods = with_predictions(comparison.methods[:2], (rows, fewer), tmp_path)
    (image,) = draw_gallery(replace(comparison, methods=methods), 1_000_000).images
    count = sum(row["image_id"] == 1 for row in rows)
    assert [panel.note for panel in image.panels[1:]] == [
        f"{count} detections, 1 absent from another panel (*)",
        f"{count - 2} detection{'s' * (count != 3)}",
    ]


@pytest.mark.parametrize(("score", "note"), [(0.9, "the same detections"), (0.2, "No method has a detection")])
def test_an_empty_gallery_says_why(comparison, tmp_path, score, note):
    rows = [{**row, "score": score} for row in confident_predictions(comparison)]
    other = rows if score > 0.5 else rows[:1]
    methods = with_predictions(comparison.methods, (rows, other, rows), tmp_path)
    gallery = draw_gallery(replace(comparison, methods=methods), 1_000_000)
    assert not gallery.images
    assert note in gallery.notes[0]


@pytest.mark.parametrize("budget", [120_000, 400_000, 7_000_000])
def test_pictures_stay_within_the_budget(comparison, budget):
    gallery = draw_gallery(comparison, budget)
    sources = [panel.source for image in gallery.images for panel in image.panels]
    assert 0 < sum(map(len, sources)) <= budget
    for source in sources:
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.width >= 400


def test_a_small_budget_gives_no_images(comparison):
    assert draw_gallery(comparison, 1000).images == ()


def test_missing_files_are_noted(comparison, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "predictions.json").write_text('[{"image_id": 1}]')
    run = replace(comparison.methods[2].runs[0], folder=broken)
    methods = (*comparison.methods[:2], replace(comparison.methods[2], runs=(run,)))
    gallery = draw_gallery(replace(comparison, methods=methods), 1_000_000)
    assert gallery.panel_titles == ["Ground truth", "nearest", "bilinear"]
    assert "bicubic is left out" in gallery.notes[0]
    assert "predictions.json" in gallery.notes[0]
    no_images = draw_gallery(with_images(comparison, tmp_path / "nowhere"), 1_000_000)
    assert no_images.images == ()
    assert "nowhere" in no_images.notes[0]
