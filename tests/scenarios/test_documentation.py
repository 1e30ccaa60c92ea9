"""What README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from typer.testing import CliRunner

from afictl.cli.main import app
from afictl.data import make_shapes
from tests.helpers.tiny_runs import SMALL, drop_states

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in README.split("\n## ")}


def blocks(language, section):
    return re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)


def commands(section, data):
    """The section's commands as lists of words, with the dataset's folder for DIR."""
    lines = [line for block in blocks("bash", section) for line in block.splitlines()]
    words = [shlex.split(line.replace("DIR", str(data)))[1:] for line in lines if line.startswith("afictl ")]
    assert words
    return words


def run(command):
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_the_story_on_your_own_data_runs(shapes_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    story = commands("On your own data", shapes_dir)
    assert [command[0] for command in story] == [
        "data",
        "finetune",
        "pretrain",
        "finetune",
        "eval",
        "visualize",
        "compare",
        "pseudo-label",
        "finetune",
    ]
    make_shapes(tmp_path / "other", train=4, val=1, size=96, seed=1)
    for command in story:
        if command[0] == "pseudo-label":  # a detector of four steps is sure of nothing
            command = [str(tmp_path / "other" / "train2017") if word == "FOLDER" else word for word in command]
            command += ["--threshold", "0"]
        if command[0] in ("finetune", "compare"):
            command += [word for setting in SMALL for word in ("--set", setting)]
        run(command)
        drop_states(tmp_path)
    assert (tmp_path / "runs" / "afi" / "interpolator.safetensors").is_file()
    assert (tmp_path / "runs" / "with-afi" / "eval" / "metrics.json").is_file()
    assert list((tmp_path / "runs" / "guide" / "detections").glob("*.png"))
    assert (tmp_path / "runs" / "student" / "best.safetensors").is_file()
    assert (tmp_path / "runs" / "compare-faster-rcnn-r18-fpn-tiny" / "comparison.csv").is_file()


def execute(block):
    names: dict = {}
    exec(block, names)
    return names


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python", "In Python")
    names = execute(block)
    assert names["fine"].shape == (1, 256, 50, 84)
    assert set(names["detections"][0]) == {"boxes", "labels", "scores", "masks"}


def test_the_commands_for_a_model_of_others_run(shapes_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    torch.save(theirs.state_dict(), "model.pth")
    quick = ["train.steps=1", "train.batch_size=2", "input.min_sizes=[64]", "input.test_size=64", "loader.workers=0"]
    for command in commands("I already have a model", shapes_dir):
        if command[0] == "finetune":
            command += [word for setting in quick for word in ("--set", setting)]
        run(command)
    assert (tmp_path / "runs" / "theirs" / "best.safetensors").is_file()


def test_the_interpolator_goes_into_a_torchvision_model(capsys):
    substitution, _ = blocks("python", "I already have a model")
    model = execute(substitution)["model"]
    assert capsys.readouterr().out == "3 enlargements replaced\n"
    with torch.no_grad():
        assert set(model([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores", "masks"}


@pytest.mark.detectron2
def test_the_backbone_goes_into_a_detectron2_script():
    pytest.importorskip("detectron2")
    _, script = blocks("python", "I already have a model")
    model = execute(script)["model"].eval()
    assert type(model.backbone.interpolator).__name__ == "AFInterpolator"
    with torch.no_grad():
        assert "instances" in model([{"image": torch.zeros(3, 64, 64)}])[0]


def flags_of(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from flags_of(child, (*path, name))
    for parameter in command.params:
        yield from parameter.opts


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))))
def test_every_flag_that_readme_names_exists(flag):
    assert flag in {*flags_of(typer.main.get_command(app)), "--help", "--dist"}  # the last is pytest's
