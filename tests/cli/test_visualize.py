"""``afictl visualize detections`` on data sets and on single images."""

import pytest
from PIL import Image
from typer.testing import CliRunner

from afictl.cli.visualize import app
from afictl.data import load_coco
from afictl.errors import UserError


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


def test_mistakes_are_one_line(untrained_run, tmp_path, shapes):
    with pytest.raises(UserError, match="--data DIR or --images PATH, not both"):
        call("--weights", untrained_run, "--data", shapes, "--images", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        call("--weights", untrained_run, "--images", tmp_path / "nowhere.jpg")
    with pytest.raises(UserError, match="no such file or folder"):
        call("--weights", tmp_path / "nowhere", "--data", shapes)
