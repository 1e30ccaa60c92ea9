"""The program as a user runs it: its own process."""

import subprocess
import sys

import pytest

COMMANDS = ("demo", "data", "model", "pretrain", "finetune", "eval", "compare", "visualize")


def afictl(*arguments):
    command = [sys.executable, "-m", "afictl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_help_lists_every_command_and_loads_nothing_heavy():
    result = afictl("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)
    code = (
        "import sys; sys.argv = ['afictl', '--help']\n"
        "from afictl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pydantic', 'numpy', 'yaml', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1] == "[]"


SUBCOMMANDS = ("data check", "data shapes", "model list", "model show", "visualize detections")


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_every_command_explains_itself(command):
    result = afictl(*command.split(), "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout


def test_version():
    import afictl as package

    assert afictl("--version").stdout.strip() == f"afictl {package.__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model", "show", "mask-rcnn-r50-fnp"), "did you mean 'mask-rcnn-r50-fpn'"),
        (("finetune", "--preset", "mask-rcnn-r18-fpn-tiny", "--data", "nowhere"), "nowhere"),
        (("finetune", "--preset", "mask-rcnn-r18-fpn-tiny", "--data", ".", "--set", "train.lrr=1"), "'lr'"),
        (("eval", "--weights", "nowhere", "--data", "."), "nowhere"),
        (("pretrain", "--guide", "nowhere", "--data", "."), "nowhere"),
        (("pretrain", "--guide", "nowhere", "--stages", "3"), "--stages 3"),
        (("compare", "--preset", "mask-rcnn-r18-fpn-tiny", "--data", ".", "--interpolators", "nearst"), "nearst"),
        (("visualize", "detections", "--weights", "nowhere", "--data", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = afictl(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_the_error_was_raised():
    result = afictl("model", "show", "nothing", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr
