"""``afictl visualize detections`` on data sets and on single images."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from afictl.cli.visualize import app
from afictl.data import load_coco
from afictl.errors import UserError
from tests.training.test_finetune import renamed


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def test_data_set_with_two_weights(untrained_run, shapes):
    result = call(
        "detections",
        "--weights",
        untrained_run,
        "--weights",
        untrained_run / "best.safetensors",
        "--data",
        shapes,
        "--limit",
        2,
    )
    assert result.exit_code == 0
    assert "2 pictures" in result.output
    ids = load_coco(shapes, "val").image_ids[:2]
    files = sorted((untrained_run / "detections").iterdir())
    assert [file.name for file in files] == sorted(f"{image_id}.png" for image_id in ids)
    assert Image.open(files[0]).width > 3 * 960


def test_without_data_the_recorded_set_is_drawn(untrained_run, shapes):
    assert "4 pictures" in call("--weights", untrained_run / "best.safetensors").output
    names = {path.stem for path in (untrained_run / "detections").iterdir()}
    assert names == {str(image_id) for image_id in load_coco(shapes, "val").image_ids}


def test_a_folder_of_images_is_drawn_whole(untrained_run, tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(9):
        Image.new("RGB", (64, 48), (90, 60, 30)).save(tmp_path / "photos" / f"{k}.jpg")
    arguments = ("--weights", untrained_run, "--images", tmp_path / "photos", "--output", tmp_path / "drawn")
    assert "9 pictures" in call(*arguments).output
    assert "2 pictures" in call(*arguments, "--limit", 2).output


def test_a_photograph_without_annotations(untrained_run, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (120, 80), (90, 60, 30)).save(photo)
    arguments = ("--images", photo, "--threshold", 0.0, "--output", tmp_path / "drawn")
    assert call("--weights", untrained_run, *arguments).exit_code == 0
    picture = Image.open(tmp_path / "drawn" / "photo.png")
    assert 960 < picture.width < 2 * 960


def test_a_threshold_below_the_detectors_own_is_told(untrained_run, shapes):
    from afictl.weights import load_detector, save_detector

    loaded = load_detector(untrained_run)
    stricter = loaded.preset.detector.model_copy(update={"score_threshold": 0.9})
    loaded.detector.preset = loaded.preset.model_copy(update={"detector": stricter})
    save_detector(untrained_run / "best.safetensors", loaded.detector, loaded.metadata)
    line = "has no detections below 0.9, its detector.score_threshold"
    assert line in call("--weights", untrained_run, "--limit", 1, "--threshold", 0.5).output
    assert line not in call("--weights", untrained_run, "--limit", 1, "--threshold", 0.9).output


def test_a_detector_of_other_classes_is_refused_as_by_eval(untrained_run, shapes, tmp_path):
    from afictl.cli.eval import evaluate

    data = renamed(shapes, tmp_path / "data", {"train2017", "val2017"})
    message = "classes of the detector are not the 4 of .*; the detector does not know 'coin'"
    with pytest.raises(UserError, match=message) as drawn:
        call("--weights", untrained_run, "--data", data)
    with pytest.raises(UserError) as measured:
        evaluate([untrained_run], data=data)
    assert str(drawn.value) == str(measured.value)


def test_mistakes_are_one_line(untrained_run, tmp_path, shapes):
    with pytest.raises(UserError, match="--data DIR or --images PATH, not both"):
        call("--weights", untrained_run, "--data", shapes, "--images", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        call("--weights", untrained_run, "--images", tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="no such file or folder"):
        call("--weights", tmp_path / "nowhere", "--data", shapes)
