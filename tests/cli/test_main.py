"""The program: messages and exit codes of errors."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from afictl import __version__
from afictl.cli import failures
from afictl.cli.main import main
from afictl.data import make_shapes
from afictl.errors import UserError
from tests.helpers.tiny_runs import set_flags

COMMANDS = ("demo", "data", "model", "pretrain", "finetune", "eval", "pseudo-label", "compare", "visualize")
COMMANDS += ("export", "doctor")
SUBCOMMANDS = ("data check", "data subset", "data shapes", "model list", "model show", "visualize detections")
CLASS = "--class-threshold cat"
FULL = Path(__file__).parent
TINY = "mask-rcnn-r18-fpn-tiny"
UNEVEN = "batch of 4 images.* 3 devices"


def process(*arguments):
    """The program in a separate process."""
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


def test_the_check_of_a_dataset_does_not_import_torchvision(shapes_dir):
    code = (
        f"import sys; sys.argv = ['afictl', 'data', 'check', {str(shapes_dir)!r}]\n"
        "from afictl.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "print('torchvision' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-2:] == ["0", "False"]


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


@pytest.mark.parametrize("command", ["finetune", "pretrain", "eval", "compare", "predict", "benchmark interpolators"])
def test_precision_and_compilation_are_explained(afictl, command):
    text = " ".join(afictl(*command.split(), "--help")[1].split())
    assert "auto, which is bf16-mixed if a measurement finds it faster on this machine" in text
    assert ("--compile" in text) == (command in ("finetune", "pretrain", "eval"))
    assert ("with --only-cost auto" in text) == (command == "compare")


def test_version_is_printed(afictl):
    assert afictl("--version") == (0, f"afictl {__version__}\n", "")


def test_a_mistake_in_a_separate_process():
    result = process("model", "show", "mask-rcnn-r50-fnp")
    assert (result.returncode, result.stdout) == (2, "")
    assert re.match("error: .*'mask-rcnn-r50-fnp'.*'mask-rcnn-r50-fpn'", result.stderr)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        # the command line itself
        ("finetune", "missing.*'--preset'.*'afictl finetune --help'"),
        ("finetun", "'finetun'.*'finetune'.*'afictl --help'"),
        ("data chek", "'chek'.*'check'.*'afictl data --help'"),
        ("eval --weigths nowhere", "'--weigths'.*'--weights'.*'afictl eval --help'"),
        ("eval --weights nowhere --limit 0", "'--limit'"),
        ("eval --weights", "'--weights' requires"),
        ("eval nowhere", "extra argument.*nowhere"),
        ("--verbose", "'--verbose'"),
        ("finetune --preset x --data . --precision 8", "'--precision'.* 8 .*bf16-mixed"),
        ("finetune --preset x --data . --devices -1", "'--devices'.* -1 .*'auto'"),
        ("finetune --preset x --data . --seed -1", "'--seed'"),
        ("pretrain --guide nowhere --stages 3", "--stages 3"),
        ("pretrain --guide nowhere --interpolator bilinear", "--interpolator bilinear"),
        ("visualize --weights nowhere --data . --images .", "--data .*--images "),
        ("visualize detektions", "'detektions'.*'detections'"),
        (f"eval {FULL}", f"extra argument.*; did you mean --weights {FULL}"),
        (f"visualize {FULL}", f"{FULL}: .*afictl visualize detections --weights {FULL}"),
        ("pretrain --guide nowhere --interpolator nearest", "--interpolator nearest: has no parameters.* afi, "),
        ("finetune --preset x --data . --steps 5", r"'--steps'; did you mean --set train\.steps=5\?"),
        ("pretrain --guide x --batch-size=4", r"did you mean --set stage1\.batch_size=4 or --set stage2\.batch_size=4"),
        ("finetune --preset x --data . --Weights y", "did you mean '--weights'"),
        ("compare --preset x --data . --seeds 0", r"'--seeds': must be at least 1 \(got 0\)"),
        ("compare --preset x --data . --seeds=x", r"'--seeds': must be an integer \(got x\)"),
        ("data check --data .", "'--data': DATA is an argument"),
        ("data check --al .", "did you mean '--all'"),
        # paths and names
        ("model show faster-rcnn-r18", "did you mean 'faster-rcnn-r18-.*, 'faster-rcnn-r18-"),
        ("model show none.yaml", r"none\.yaml: no such file"),
        ("finetune --preset none.yaml --data .", r"--preset none\.yaml: no such file"),
        (f"finetune --preset {TINY} --data . --interpolator AFI", "--interpolator AFI: .* did you mean 'afi'"),
        (f"finetune --preset {TINY} --data . --interpolator no/run", "--interpolator no/run: no such file or folder"),
        (f"finetune --preset {TINY} --data . --set train.steps=0", r"train\.steps: must be at least 1 \(got 0\)"),
        ("visualize --weights nowhere --images none", "--images none: no such file or folder"),
        ("visualize training nowhere", "nowhere: no such file or folder"),
        ("model show mask-rcnn-r50-fnp", "'mask-rcnn-r50-fpn'"),
        (f"finetune --preset {TINY} --data nowhere", "--data nowhere: "),
        (f"finetune --preset {TINY} --data . --set train.lrr=1", "lrr.*'lr'"),
        (f"finetune --preset {TINY} --data . --partial", "--partial .*--weights"),
        ("eval --weights nowhere --data .", "--weights nowhere: "),
        ("eval --weights . --weights nowhere --data .", "nowhere: "),
        ("eval --weights . --confusion-score 0.5", "--confusion-score .*--confusion"),
        ("eval --weights nowhere", "--weights nowhere: "),
        ("pretrain --guide nowhere", "--guide nowhere: "),
        ("pretrain --guide nowhere --interpolator carafee", "--interpolator carafee: .*'carafe'"),
        (f"compare --preset {TINY} --data . --interpolators nearst", "nearst"),
        (f"finetune --preset {TINY} --data . --devices 3 --set train.batch_size=4", UNEVEN),
        (f"compare --preset {TINY} --data . --devices 1 --nodes 3 --set train.batch_size=4", UNEVEN),
        ("visualize --weights nowhere", "--weights nowhere: "),
        (f"data check {__file__}", r"test_main\.py: .*annotations"),
        ("convert nowhere out.safetensors --classes names.txt", r"--classes names\.txt: "),
        ("convert nowhere out.safetensors --classes list/names", "--classes list/names: "),
        # quick checks come first
        ("pseudo-label --weights nowhere --images none --output p.json", "--images none: "),
        (f"pseudo-label --weights nowhere --images . --output p.json {CLASS}=2", f"{CLASS}=2: "),
        (f"pseudo-label --weights nowhere --images . --output p.json {CLASS}=nan", f"{CLASS}=nan: "),
        ("pseudo-label --weights nowhere --images . --output p.txt", r"--output p\.txt: .*\.json"),
        (f"finetune --preset {TINY} --data nowhere --output {FULL}", f"{FULL} .*no run"),
        (f"finetune --preset {TINY} --data nowhere --output {FULL} --resume", f"{FULL} .*no run.*--resume"),
        (f"finetune --preset {TINY} --data . --weights x --backbone-weights y", "--backbone-weights .*--weights"),
        (f"finetune --preset {TINY} --data . --weights nowhere", "--weights nowhere: "),
        (f"finetune --preset {TINY} --data . --interpolator nowhere", "--interpolator nowhere: "),
        (f"compare --preset {TINY} --data nowhere --weights x --output {FULL}", f"{FULL} .*no comparison"),
        ("eval --weights nowhere --tta --batch-size 1", "--batch-size .*--tta"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(afictl, here, arguments, facts):
    code, _, errors = afictl(*arguments.split())
    assert code == 2
    assert re.match(f"error: .*{facts}", errors)
    assert errors.count("\n") == 1
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("stage", [1, 2])
def test_a_batch_size_that_devices_do_not_divide_is_rejected(afictl, here, untrained_run, stage):
    settings = ("--set", f"stage{stage}.batch_size=4", "--set", f"stage{3 - stage}.batch_size=3")
    code, _, errors = afictl("pretrain", "--guide", untrained_run, "--devices", 3, *settings)
    assert code == 2
    assert re.match(f"error: .*{UNEVEN}", errors)
    assert list(here.iterdir()) == []


def test_a_checkpoint_of_another_model_is_rejected(afictl, here, shapes):
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
    command = ("finetune", "--preset", TINY, "--data", data, "--interpolator", "nearest", "--devices", 1)
    code, _, errors = afictl(*command, *set_flags())
    assert code == 2
    assert str(image) in errors
    assert errors.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device_is_named(afictl, here, shapes):
    code, _, errors = afictl("data", "check", shapes, "--no-images", "--json", "/dev/full")
    assert code == 2
    assert errors.startswith("error: --json /dev/full: No space left on device")
    assert Path("/dev/full").is_char_device()


def _raise(error):
    def fail(*arguments, **options):
        raise error

    return fail


def test_an_unexpected_error_is_one_line_and_code_1(afictl, monkeypatch):
    monkeypatch.setattr("afictl.presets.list_presets", _raise(TypeError("no\nway")))
    code, output, errors = afictl("model", "list")
    assert (code, output) == (1, "")
    assert re.fullmatch("error: .*TypeError: no way; .*--debug.*\n", errors)


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's."""


CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1 GiB is free."
CPU = (
    "[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12"
)
HINT = "batch_size.*max_size.*--set.*--precision bf16-mixed"
BUS_ERROR = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible")


@pytest.mark.parametrize(
    ("command", "error", "facts"),
    [
        ("finetune", OutOfMemoryError(CUDA), rf"GPU.*2\.50 GiB.*{HINT}"),
        ("eval", OutOfMemoryError(CUDA), r"GPU.*2\.50 GiB"),
        ("compare", RuntimeError(CPU), f"memory.*9 bytes.*{HINT}"),
        ("eval", MemoryError("Unable to allocate 7.28 TiB for an array"), r"memory.*7\.28 TiB"),
        ("eval", MemoryError(), "memory"),
        ("finetune", BUS_ERROR, r"loader process.*Bus error.*--set loader\.workers=.*--resume"),
        ("eval", RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "loader process.*memory"),
    ],
)
def test_out_of_memory_is_one_line_and_code_1(monkeypatch, capsys, command, error, facts):
    monkeypatch.setattr("sys.argv", ["afictl", command])
    assert failures.report_error(error) == 1
    line = capsys.readouterr().err
    assert re.fullmatch(f"error: .*{facts}.*\n", line)
    assert ("--set" in line) == (command != "eval")  # eval has no settings that save memory


@pytest.mark.slow
def test_debug_shows_the_traceback():
    result = process("model", "show", "nothing", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_debug_leaves_the_error_to_the_interpreter(monkeypatch):
    monkeypatch.setattr("sys.argv", ["afictl", "model", "show", "nothing", "--debug"])
    with pytest.raises(UserError, match="'nothing'"):
        main()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ("model show x", ""),
        (f"finetune --preset {TINY} --data .", "; .*--resume.*"),
        (f"compare --preset {TINY} --data .", "; the same command .*"),
    ],
)
def test_an_interrupt_names_how_to_continue(afictl, monkeypatch, arguments, advice):
    monkeypatch.setattr("afictl.presets.load_preset", _raise(KeyboardInterrupt()))
    code, output, errors = afictl(*arguments.split())
    assert (code, output) == (130, "")
    assert re.fullmatch(f"stopped{advice}\n", errors)


@pytest.fixture
def second_rank(monkeypatch):
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(failures, "_RANK_ZERO_SECONDS", 0.1)


@pytest.mark.usefixtures("second_rank")
def test_another_rank_names_itself_in_its_error(afictl):
    code, _, errors = afictl("finetune", "--preset", "nothing", "--data", "nowhere")
    assert code == 2
    assert errors.startswith("error: process 1: no preset is called 'nothing'")


@pytest.mark.usefixtures("second_rank")
def test_a_contradiction_to_the_launcher_is_reported_by_rank_zero_alone(afictl, monkeypatch, tmp_path):
    arguments = ("finetune", "--preset", TINY, "--data", "nowhere", "--output", str(tmp_path / "run"), "--devices", "3")
    assert afictl(*arguments) == (2, "", "")
    monkeypatch.setenv("RANK", "0")
    code, _, errors = afictl(*arguments)
    assert code == 2
    assert errors == "error: --devices 3: the launcher started 2 processes on this machine; leave out --devices\n"
    code, _, errors = afictl(*arguments[:-2], "--nodes", "2")
    assert code == 2
    assert errors == "error: --nodes 2: the launcher started processes on 1 machine; leave out --nodes\n"


@pytest.mark.usefixtures("second_rank")
def test_a_command_of_one_process_is_refused_under_a_launcher(afictl, monkeypatch, tmp_path):
    assert afictl("model", "list") == (0, "", "")
    monkeypatch.setenv("RANK", "0")
    code, output, errors = afictl("data", "shapes", str(tmp_path / "data"))
    assert (code, output) == (2, "")
    assert "uses one process" in errors
    assert not (tmp_path / "data").exists()
