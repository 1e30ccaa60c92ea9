"""What README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from afictl.cli.main import app
from tests.training.conftest import SMALL

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("afictl ")]


def test_the_story_on_your_own_data_runs(shapes_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    story = [[str(shapes_dir) if word == "DIR" else word for word in command] for command in commands()]
    assert [command[0] for command in story] == [
        "data",
        "finetune",
        "pretrain",
        "finetune",
        "eval",
        "visualize",
        "compare",
    ]
    for command in story:
        if command[0] in ("finetune", "compare"):
            command += [word for setting in SMALL for word in ("--set", setting)]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "runs" / "afi" / "interpolator.safetensors").is_file()
    assert (tmp_path / "runs" / "with-afi" / "eval" / "metrics.json").is_file()
    assert list((tmp_path / "runs" / "guide" / "detections").glob("*.png"))
    assert (tmp_path / "runs" / "compare-faster-rcnn-r18-fpn-tiny" / "comparison.csv").is_file()


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):
        names: dict = {}
        exec(block, names)
        assert names["fine"].shape == (1, 256, 50, 84)
        assert set(names["detections"][0]) == {"boxes", "labels", "scores", "masks"}


def flags_of(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from flags_of(child, (*path, name))
    for parameter in command.params:
        yield from parameter.opts


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))))
def test_every_flag_that_readme_names_exists(flag):
    assert flag in {*flags_of(typer.main.get_command(app)), "--help"}
