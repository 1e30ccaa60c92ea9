"""The program: messages and exit codes of errors."""

import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from afictl import __version__
from afictl.cli import failures
from afictl.data import make_shapes
from tests.helpers.tiny_runs import SMALL

COMMANDS = ("demo", "data", "model", "pretrain", "finetune", "eval", "pseudo-label", "compare", "visualize")
SUBCOMMANDS = ("data check", "data subset", "data shapes", "model list", "model show", "visualize detections")
CLASS = "--class-threshold cat"
FULL = Path(__file__).parent
TINY = "mask-rcnn-r18-fpn-tiny"
UNEVEN = "a batch of 4 images cannot be shared by 3 devices evenly"


def process(*arguments):
    """The program in its own process."""
    command = [sys.executable, "-m", "afictl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty folder to work in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_help_lists_every_command_and_imports_no_large_library():
    code = (
        "import sys; sys.argv = ['afictl', '--help']\n"
        "from afictl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "print([m for m in ('torch', 'pydantic', 'numpy', 'yaml', 'PIL', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert all(command in result.stdout for command in COMMANDS)
    assert result.stdout.splitlines()[-2:] == ["0", "[]"]


@pytest.mark.parametrize("command", ["", "data", "model", "visualize"])
def test_a_group_without_a_command_shows_its_help(afictl, command):
    code, output, errors = afictl(*command.split())
    assert (code, errors) == (0, "")
    assert output.startswith(f"Usage: {' '.join(['afictl', *command.split()])} [OPTIONS] COMMAND")


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_every_command_has_help(afictl, command):
    code, output, _ = afictl(*command.split(), "--help")
    assert code == 0
    assert "Usage:" in output


def test_version(afictl):
    assert afictl("--version") == (0, f"afictl {__version__}\n", "")


def test_a_mistake_in_its_own_process():
    result = process("model", "show", "mask-rcnn-r50-fnp")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no preset is called 'mask-rcnn-r50-fnp'; did you mean 'mask-rcnn-r50-fpn'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # the command line itself
        ("finetune", "missing option '--preset'; see 'afictl finetune --help'"),
        ("finetun", "no such command 'finetun'; did you mean 'finetune'?; see 'afictl --help'"),
        ("data chek", "did you mean 'check'?; see 'afictl data --help'"),
        ("eval --weigths nowhere", "no such option '--weigths'; did you mean '--weights'?; see 'afictl eval --help'"),
        ("eval --weights nowhere --limit 0", "'--limit'"),
        ("eval --weights", "'--weights' requires an argument"),
        ("eval nowhere", "unexpected extra argument"),
        ("--verbose", "no such option '--verbose'"),
        ("finetune --preset x --data . --precision 8", "8 is not 32-true, bf16-mixed or 16-mixed"),
        ("finetune --preset x --data . --devices -1", "-1 is neither a number of at least 1 nor 'auto'"),
        ("finetune --preset x --data . --seed -1", "'--seed'"),
        ("pretrain --guide nowhere --stages 3", "--stages 3"),
        ("pretrain --guide nowhere --interpolator bilinear", "--interpolator bilinear"),
        ("visualize --weights nowhere --data . --images .", "--data DIR or --images PATH, not both"),
        ("visualize detektions", "did you mean 'detections'"),
        # paths and names
        ("model show mask-rcnn-r50-fnp", "did you mean 'mask-rcnn-r50-fpn'"),
        (f"finetune --preset {TINY} --data nowhere", "nowhere"),
        (f"finetune --preset {TINY} --data . --set train.lrr=1", "'lr'"),
        (f"finetune --preset {TINY} --data . --partial", "--partial has no effect without --weights"),
        ("eval --weights nowhere --data .", "nowhere"),
        ("eval --weights . --weights nowhere --data .", "nowhere: no such file or folder"),
        ("eval --weights . --confusion-score 0.5", "--confusion-score has no effect without --confusion"),
        ("eval --weights nowhere", "nowhere: no such file or folder"),
        ("pretrain --guide nowhere", "nowhere: no such file or folder"),
        (f"compare --preset {TINY} --data . --interpolators nearst", "nearst"),
        (f"finetune --preset {TINY} --data . --devices 3 --set train.batch_size=4", UNEVEN),
        (f"compare --preset {TINY} --data . --devices 1 --nodes 3 --set train.batch_size=4", UNEVEN),
        ("visualize --weights nowhere", "nowhere: no such file or folder"),
        (f"data check {__file__}", "test_main.py is a file; a dataset is the folder that holds annotations/"),
        ("convert nowhere out.safetensors --classes names.txt", "--classes names.txt: cannot be read (No such file"),
        ("convert nowhere out.safetensors --classes list/names", "--classes list/names: cannot be read (No such file"),
        # quick checks come first
        ("pseudo-label --weights nowhere --images none --output p.json", "image folder none does not exist"),
        (f"pseudo-label --weights nowhere --images . --output p.json {CLASS}=2", f"{CLASS}=2: write NAME=VALUE"),
        (f"pseudo-label --weights nowhere --images . --output p.json {CLASS}=nan", f"{CLASS}=nan: write NAME=VALUE"),
        ("pseudo-label --weights nowhere --images . --output p.txt", "--output p.txt: name a file that ends in .json"),
        (f"finetune --preset {TINY} --data nowhere --output {FULL}", f"{FULL} is not empty and holds no run"),
        (
            f"finetune --preset {TINY} --data . --weights x --backbone-weights y",
            "--backbone-weights has no effect with",
        ),
        (f"finetune --preset {TINY} --data . --weights nowhere", "nowhere: no such file or folder"),
        (f"finetune --preset {TINY} --data . --interpolator nowhere", "--interpolator nowhere: neither a kind"),
        (f"compare --preset {TINY} --data nowhere --weights x --output {FULL}", f"{FULL} is not empty and holds no"),
        ("eval --weights nowhere --tta --batch-size 1", "--batch-size has no effect with --tta"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(afictl, here, arguments, message):
    code, _, errors = afictl(*arguments.split())
    assert code == 2
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("stage", [1, 2])
def test_a_batch_size_that_devices_cannot_share(afictl, here, untrained_run, stage):
    settings = ("--set", f"stage{stage}.batch_size=4", "--set", f"stage{3 - stage}.batch_size=3")
    code, _, errors = afictl("pretrain", "--guide", untrained_run, "--devices", 3, *settings)
    assert (code, errors) == (2, f"error: {UNEVEN}\n")
    assert list(here.iterdir()) == []


def test_a_checkpoint_of_another_model(afictl, here, shapes):
    import torch

    torch.save({"head.weight": torch.zeros(2)}, here.parent / "other.pt")
    code, _, errors = afictl("eval", "--weights", here.parent / "other.pt", "--data", shapes)
    assert code == 2
    assert "other.pt: " in errors
    assert errors.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_truncated_image_is_named(afictl, here):
    data = make_shapes(here.parent / "set", train=1, val=1, size=96)
    (image,) = (data / "train2017").glob("*.jpg")
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    settings = [word for setting in SMALL for word in ("--set", setting)]
    command = ("finetune", "--preset", TINY, "--data", data, "--interpolator", "nearest", "--devices", 1)
    code, _, errors = afictl(*command, *settings)
    assert code == 2
    assert str(image) in errors
    assert errors.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_full(afictl, here, shapes):
    code, _, errors = afictl("data", "check", shapes, "--no-images", "--json", "/dev/full")
    assert code == 2
    assert errors == "error: /dev/full: No space left on device; free some\n"
    assert Path("/dev/full").is_char_device()


def _raise(error):
    def fail(*arguments, **options):
        raise error

    return fail


def test_an_unexpected_error_is_one_line_and_code_1(afictl, monkeypatch):
    monkeypatch.setattr("afictl.presets.list_presets", _raise(TypeError("no\nway")))
    line = "error: unexpected TypeError: no way; run again with --debug for the traceback\n"
    assert afictl("model", "list") == (1, "", line)


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's."""


CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1 GiB is free."
CPU = (
    "[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
)
HINT = "; use a smaller batch_size or max_size (--set) or --precision bf16-mixed"
KILLED = "a loader process was killed{}, probably because memory or shared memory ran out"


@pytest.mark.parametrize(
    ("command", "error", "line"),
    [
        ("finetune", OutOfMemoryError(CUDA), f"the memory of the GPU is too small (tried to allocate 2.50 GiB){HINT}"),
        ("eval", OutOfMemoryError(CUDA), "the memory of the GPU is too small (tried to allocate 2.50 GiB)"),
        ("compare", RuntimeError(CPU), f"the memory is too small (tried to allocate 9 bytes){HINT}"),
        (
            "eval",
            MemoryError("Unable to allocate 7.28 TiB for an array"),
            "the memory is too small (unable to allocate 7.28 TiB)",
        ),
        ("eval", MemoryError(), "the memory is too small"),
        (
            "finetune",
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
            f"{KILLED.format(' (Bus error)')}; use fewer loader processes: --set loader.workers=N;"
            " the same command with --resume continues",
        ),
        ("eval", RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), KILLED.format("")),
    ],
)
def test_out_of_memory(monkeypatch, capsys, command, error, line):
    monkeypatch.setattr("sys.argv", ["afictl", command])
    assert failures.report_error(error) == 1
    assert capsys.readouterr().err == f"error: {line}\n"


def test_debug_shows_the_traceback():
    result = process("model", "show", "nothing", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("model show x", "stopped"),
        (f"finetune --preset {TINY} --data .", "stopped; the same command with --resume continues"),
        (f"compare --preset {TINY} --data .", "stopped; the same command continues"),
    ],
)
def test_an_interrupt_names_how_to_continue(afictl, monkeypatch, arguments, line):
    monkeypatch.setattr("afictl.presets.load_preset", _raise(KeyboardInterrupt()))
    assert afictl(*arguments.split()) == (130, "", f"{line}\n")


def test_another_rank_is_silent_if_rank_zero_has_ended(afictl, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    parents = count()
    monkeypatch.setattr(failures.os, "getppid", lambda: next(parents))
    assert afictl("model", "show", "nothing") == (2, "", "")


def test_another_rank_reports_its_own_error(afictl, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(failures, "_RANK_ZERO_SECONDS", 0.1)
    code, _, errors = afictl("model", "show", "nothing")
    assert code == 2
    assert errors.startswith("error: no preset")
