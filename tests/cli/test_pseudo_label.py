"""``afictl pseudo-label``, and the training on its file."""

import json
import shutil

import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from afictl.cli.finetune import finetune_command
from afictl.cli.pseudo_label import pseudo_label_command
from afictl.errors import UserError
from tests.helpers.tiny_runs import SMALL, set_flags

app = typer.Typer()
app.command("pseudo-label")(pseudo_label_command)
app.command("finetune")(finetune_command)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def unlabelled(tmp_path, shapes_dir):
    """Four images that are not in the dataset of the teacher."""
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for file in sorted((shapes_dir / "train2017").iterdir())[1:5]:
        shutil.copy(file, folder / f"other-{file.name}")
    return folder


def test_labels_counts_and_examples(untrained_run, shapes, unlabelled, tmp_path):
    shutil.copy(next((shapes / "val2017").iterdir()), unlabelled / "labelled.jpg")
    (unlabelled / "broken.jpg").write_bytes(b"\xff\xd8 broken")
    output = tmp_path / "labels" / "pseudo.json"
    result = call(
        "pseudo-label", "--weights", untrained_run, "--images", unlabelled, "--output", output,
        "--threshold", 0.1, "--class-threshold", "disc=0.9",
    )  # fmt: skip
    assert result.exit_code == 0
    assert f"excluded: 1 images of {shapes}" in result.output
    assert "skipped 1 images: " in result.output
    content = json.loads(output.read_text())
    assert [image["file_name"] for image in content["images"]] == [f"other-{k:06d}.jpg" for k in range(2, 6)]
    ids = {category["name"]: category["id"] for category in content["categories"]}
    assert content["annotations"]
    assert all(record["score"] >= 0.1 for record in content["annotations"])
    assert all(record["score"] >= 0.9 for record in content["annotations"] if record["category_id"] == ids["disc"])
    assert {"size", "counts"} == content["annotations"][0]["segmentation"].keys()
    expected = {"weights": untrained_run.name, "threshold": 0.1, "class_thresholds": {"disc": 0.9}, "tta": None}
    assert expected.items() <= content["info"].items()
    assert f"{len(content['annotations'])} pseudo labels on " in result.output
    with Image.open(output.with_suffix(".png")) as sheet:
        assert sheet.width > 3 * 960


def test_images_of_another_data_set_are_excluded(untrained_run, shapes_dir, unlabelled, tmp_path):
    common = ("pseudo-label", "--weights", untrained_run, "--output", tmp_path / "pseudo.json", "--threshold", 0)
    with pytest.raises(UserError, match=f" 4 images.*{shapes_dir}"):
        call(*common, "--images", unlabelled, "--exclude", shapes_dir)
    (untrained_run / "config.yaml").unlink()
    result = call(*common, "--images", unlabelled, "--limit", 2, "--slice", 64, "--slice-only")
    assert "--exclude DIR" in result.output
    content = json.loads((tmp_path / "pseudo.json").read_text())
    assert len(content["images"]) == 2
    assert content["info"]["slice"] == {"size": 64, "overlap": 0.2, "whole_image": False}


def test_the_file_records_the_scales(untrained_run, unlabelled, tmp_path):
    call(
        "pseudo-label", "--weights", untrained_run, "--images", unlabelled, "--output", tmp_path / "pseudo.json",
        "--threshold", 0, "--limit", 1, "--tta", "--tta-sizes", "64,96", "--no-tta-flip",
    )  # fmt: skip
    content = json.loads((tmp_path / "pseudo.json").read_text())
    assert content["info"]["tta"] == {"min_sizes": [64, 96], "max_size": 4000, "flip": False}


def test_a_detector_is_trained_on_the_file(untrained_run, shapes_dir, unlabelled, tmp_path):
    output = tmp_path / "pseudo.json"
    call("pseudo-label", "--weights", untrained_run, "--images", unlabelled, "--output", output, "--threshold", 0.1)
    settings = set_flags([*SMALL, "train.batch_size=4"])
    common = ("finetune", "--preset", "mask-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--interpolator", "nearest")
    run = tmp_path / "runs" / "student"
    pseudo = ("--pseudo", output, "--pseudo-weight", 2, "--pseudo-ratio", 3, "--output", run)
    assert call(*common, *settings, *pseudo).exit_code == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["pseudo"] == {"file": str(output), "weight": 2.0, "ratio": 3.0}
    with pytest.raises(UserError, match=r"--pseudo-ratio 2: .* 4 "):
        call(*common, *settings, "--pseudo", output, "--pseudo-ratio", 2)
    with pytest.raises(UserError, match=r"1 labelled .*3 pseudo-labelled .*2 devices"):
        call(*common, *settings, "--pseudo", output, "--pseudo-ratio", 3, "--devices", 2, "--output", tmp_path / "two")
    assert not (tmp_path / "two").exists()
    with pytest.raises(UserError, match="--pseudo-weight"):
        call(*common, *settings, "--pseudo-weight", 2)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--images", "nowhere"], "nowhere: no such folder"),
        (["--images", "EMPTY"], r"empty: holds no file in \.jpg"),
        (["--output", "pseudo.txt"], r"--output pseudo\.txt: .*\.json"),
        (["--class-threshold", "disc"], "--class-threshold disc: .*NAME=VALUE"),
        (
            ["--class-threshold", "disc=0.4", "--class-threshold", "cross=1", "--class-threshold", "disc=0.9"],
            r"--class-threshold disc=0\.9: 'disc' .*0\.4",
        ),
        (["--class-threshold", "disk=0.5"], "'disk'.*'disc'"),
        (["--exclude", "nowhere"], "nowhere: "),
        (["--tta-sizes", "64"], "--tta-sizes .*--tta$"),
        (["--weights", "nowhere"], "nowhere"),
        (["--threshold", "1"], "4 images .*--threshold"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(untrained_run, unlabelled, tmp_path, monkeypatch, arguments, facts):
    (tmp_path / "here" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    words = {"--weights": untrained_run, "--images": unlabelled, "--output": "pseudo.json"}
    for name in arguments[::2]:
        words.pop(name, None)
    changes = ["empty" if word == "EMPTY" else word for word in arguments]
    with pytest.raises(UserError, match=facts) as error:
        call("pseudo-label", *(word for pair in words.items() for word in pair), *changes)
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["empty"]
