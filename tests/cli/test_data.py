import json

import pytest
from typer.testing import CliRunner

from afictl.cli.data import app
from afictl.data import load_dataset
from afictl.errors import UserError


@pytest.fixture
def afictl_data():
    """A function that runs ``afictl data`` with arguments."""

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words], terminal_width=200)

    return invoke


def test_generated_shapes_pass_the_check(afictl_data, tmp_path):
    shapes = afictl_data("shapes", tmp_path / "set", "--train", 3, "--val", 2, "--size", 96, "--seed", 1)
    assert shapes.exit_code == 0
    assert len(load_dataset(tmp_path / "set", "train")) == 3
    check = afictl_data("check", tmp_path / "set")
    assert check.exit_code == 0
    assert "Training will run" in check.stdout
    assert "triangle" in check.stdout


def test_a_fatal_fault_ends_in_exit_code_1_and_its_location(afictl_data, tmp_path):
    afictl_data("shapes", tmp_path / "set", "--train", 6, "--val", 2, "--size", 96)
    for k in range(1, 6):
        (tmp_path / "set" / "train2017" / f"{k:06d}.jpg").unlink()
    report = tmp_path / "report.json"
    check = afictl_data("check", tmp_path / "set", "--split", "train", "--json", report)
    assert check.exit_code == 1
    assert "000001.jpg" in check.stdout
    assert "000005.jpg" not in check.stdout
    assert "2 more" in check.stdout
    assert "Training cannot run" in check.stdout
    assert len(json.loads(report.read_text())[0]["findings"]["missing-file"]["places"]) == 5
    assert "000005.jpg" in afictl_data("check", tmp_path / "set", "--all").stdout
    assert afictl_data("check", tmp_path / "set", "--no-images").exit_code == 0


def test_paths_are_not_wrapped_outside_a_terminal(afictl_data, tmp_path):
    folder = tmp_path / ("deep" * 20)
    afictl_data("shapes", folder, "--train", 1, "--val", 1, "--size", 96)
    file = folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = f"{'long' * 30}.jpg"
    file.write_text(json.dumps(content))
    check = afictl_data("check", folder, "--split", "train")
    assert f"{'long' * 30}.jpg" in check.stdout
    assert str(file) in check.stdout
    assert "Training cannot run: 1 " in check.stdout


def test_an_export_of_another_program_is_described_once_and_in_limited_width(afictl_data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "labels.json").write_text("{}")
    check = afictl_data("check", tmp_path)
    assert check.exit_code == 1
    assert check.stdout.count("FiftyOne's") == 1
    assert "no val annotation file: see above" in check.stdout
    assert max(map(len, check.stdout.splitlines())) <= max(160, len(str(tmp_path)) + 80)


def test_a_missing_folder_is_a_user_error(afictl_data, tmp_path):
    result = afictl_data("check", tmp_path / "nowhere")
    assert isinstance(result.exception, UserError)
    assert "nowhere" in str(result.exception)


@pytest.mark.parametrize(("form", "notes"), [("coco", 0), ("yolo", 1), ("voc", 1)])
def test_conversion_to_a_format_without_ids_says_so(afictl_data, tmp_path, form, notes):
    afictl_data("shapes", tmp_path / "set", "--train", 1, "--val", 1, "--size", 96)
    result = afictl_data("convert", tmp_path / "set", tmp_path / "out", "--to", form)
    assert [f"{form} has no ids" in line for line in result.stdout.splitlines()].count(True) == notes


def test_a_class_name_of_two_lines_is_one_finding_of_one_line(afictl_data, tmp_path):
    afictl_data("shapes", tmp_path / "set", "--train", 1, "--val", 1, "--size", 96)
    for file in (tmp_path / "set" / "annotations").iterdir():
        file.write_text(file.read_text().replace('"cross"', r'"a\ncross\u001b[31m"'))
    check = afictl_data("check", tmp_path / "set", "--no-images")
    assert check.exit_code == 1
    assert check.stdout.count(r"'a\ncross\x1b[31m'") == 2  # one of each split
    assert "\x1b[31m" not in check.stdout
    assert "Training cannot run: 1 kind of problem" in check.stdout
