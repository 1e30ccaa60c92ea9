"""Output paths are checked before any work."""

import json
import os
import re

import pytest

from afictl.cli.main import app
from tests.cli.conftest import commands

FILES = ("data check", "data show", "benchmark interpolators", "pseudo-label", "convert", "export")
FOLDERS = (
    *("demo", "pretrain", "finetune", "eval", "predict", "compare", "visualize detections"),
    *("data shapes", "data subset"),
)
OPTION = dict.fromkeys(("data check", "benchmark interpolators"), "--json")
OPTION |= dict.fromkeys(("convert", "data shapes", "data subset"), "OUT")
REQUIRED = {  # none of these exist: outputs are checked first
    "data check": ["nowhere"],
    "data show": ["nowhere"],
    "data subset": ["nowhere"],
    "pseudo-label": ["--weights", "nowhere", "--images", "nowhere"],
    "convert": ["nowhere"],
    "export": ["--weights", "nowhere"],
    "pretrain": ["--guide", "nowhere"],
    "finetune": ["--preset", "nothing", "--data", "nowhere"],
    "eval": ["--weights", "nowhere"],
    "predict": ["nowhere", "--weights", "nowhere"],
    "compare": ["--preset", "nothing", "--data", "nowhere"],
    "visualize detections": ["--weights", "nowhere"],
}


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A folder to work in, with a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    return tmp_path


def words(command, target):
    option = OPTION.get(command, "--output")
    return [*command.split(), *REQUIRED.get(command, []), *([option] if option != "OUT" else []), target]


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_an_output_that_is_not_writable_is_rejected(afictl, here, command):
    code, _, errors = afictl(*words(command, "file/inside/out.json"))
    path = "file/inside" if command in FILES else "file/inside/out.json"
    assert code == 2
    assert errors.startswith(f"error: {OPTION.get(command, '--output')} {path}: ")
    assert f" {here / 'file'} " in errors
    assert errors.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("command", FILES)
def test_a_folder_instead_of_a_file_is_rejected(afictl, here, command):
    code, output, errors = afictl(*words(command, "."))
    assert (code, output) == (2, "")
    assert re.fullmatch(f"error: \\. .*{OPTION.get(command, '--output')} is a file\n", errors)


@pytest.mark.parametrize("command", FOLDERS)
def test_a_file_instead_of_a_folder_is_rejected(afictl, here, command):
    code, output, errors = afictl(*words(command, "file"))
    assert (code, output) == (2, "")
    assert re.fullmatch(f"error: file .*{OPTION.get(command, '--output')} is a folder\n", errors)
    assert (here / "file").read_text() == "text"


def test_every_json_and_output_is_checked():
    for name, parameter in ((n, p) for n, c in commands(app) for p in c.params if {"--json", "--output"} & {*p.opts}):
        assert name in FILES + FOLDERS or name.startswith("visualize"), name
        assert parameter.callback is not None, name


def test_missing_folders_are_created(afictl, here, shapes):
    code, _, _ = afictl("data", "check", shapes, "--no-images", "--json", "a/b/report.json")
    assert code == 0
    reports = json.loads((here / "a" / "b" / "report.json").read_text())
    assert [report["split"] for report in reports] == ["train", "val"]
    assert os.listdir(here / "a" / "b") == ["report.json"]


def test_a_link_is_written_through(afictl, here, shapes):
    (here / "link.json").symlink_to("file")
    assert afictl("data", "check", shapes, "--no-images", "--json", "link.json")[0] == 0
    assert (here / "link.json").is_symlink()
    assert json.loads((here / "file").read_text())


@pytest.mark.parametrize("option", ["--json", "--output"])
def test_a_path_that_is_no_text_is_rejected(afictl, here, option):
    command = ("data", "check", "data") if option == "--json" else ("demo",)
    code, _, errors = afictl(*command, option, "run\udcff")
    assert code == 2
    assert re.fullmatch(rf"error: {option} 'run\\udcff': .*UTF-8.*\n", errors)
