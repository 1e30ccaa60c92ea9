"""Run folders with damaged files: every command that reads one ends in one line that names it."""

import shutil

import pytest
from typer.testing import CliRunner

from afictl import UserError, build_detector, load_preset, load_weights
from afictl.cli.main import app
from afictl.tensor_files import read_tensors, save_tensors
from tests.helpers.tiny_runs import SMALL, set_flags


@pytest.fixture
def run(guide_run, tmp_path):
    return shutil.copytree(guide_run, tmp_path / "run")


@pytest.fixture
def error_of(run, shapes_dir, tmp_path):
    """A function that calls a command on the run, and returns its error."""
    words = {
        "finetune": [
            *("--preset", "mask-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--interpolator", "nearest"),
            *("--output", run, "--resume", *set_flags(SMALL)),
        ],
        "pretrain": ["--guide", run, "--output", tmp_path / "out"],
        "eval": ["--weights", run],
        "compare": ["--runs", run, "--output", tmp_path / "out"],
        "visualize training": [run],
        "visualize detections": ["--weights", run],
    }

    def error_of(command):
        with pytest.raises(UserError) as error:
            CliRunner().invoke(app, [*command.split(), *map(str, words[command])], catch_exceptions=False)
        assert "\n" not in str(error.value)
        return str(error.value)

    return error_of


WRONG_CONFIGS = {
    "list": b"- 1\n",
    "null": b"",
    "data": b"command: finetune\ndata: [1]\n",
    "latin-1": "data: é\n".encode("latin-1"),
    "truncated": b'command: finetune\ndata: "/da',
    "deep": b"[" * 2000,
}


@pytest.mark.parametrize("content", WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
@pytest.mark.parametrize("command", ["finetune", "pretrain", "eval", "compare", "visualize detections"])
def test_settings(run, error_of, command, content):
    (run / "config.yaml").write_bytes(content)
    assert "config.yaml" in error_of(command)


@pytest.mark.parametrize("command", ["finetune", "visualize training"])
@pytest.mark.parametrize("line", [b'{"step": "1"}', b"[1]", b"null", b"\xff\xfe", b"[" * 2000])
def test_metrics(run, error_of, command, line):
    file = run / "metrics.jsonl"
    file.write_bytes(line + b"\n" + file.read_bytes())
    assert "metrics.jsonl: line 1: " in error_of(command)


DESCRIPTIONS = {
    "classes.0": [1, 2, 3, 4],
    "classes.2": ["disc", "square", None, "cross"],
    "category_ids": {"a": 1},
    "metrics": [1],
    "step": "4",
    "preset": 3,
}


@pytest.mark.parametrize("key", DESCRIPTIONS)
def test_the_description_of_weights(run, error_of, key):
    for name in ("best", "last"):
        tensors, description = read_tensors(run / f"{name}.safetensors")
        changed = {**description, key.partition(".")[0]: DESCRIPTIONS[key]}
        save_tensors(run / f"{name}.safetensors", tensors, changed)
    for command in ("visualize detections", "eval", "compare", "pretrain"):
        message = error_of(command)
        assert ".safetensors: " in message
        assert key in message
    if key != "preset":
        detector = build_detector(load_preset("mask-rcnn-r18-fpn-tiny", SMALL), 4, "nearest")
        with pytest.raises(UserError, match=f"safetensors: .*'{key}'"):
            load_weights(detector, run)
