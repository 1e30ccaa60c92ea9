import signal
import sys

import pytest

from afictl.comparison import Method
from afictl.comparison.experiment import run_process
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.run_process import RunProcess
from afictl.comparison.experiment.sequential import run_task, sigterm_as_interrupt, train_in_turn
from afictl.comparison.experiment.specification import ExperimentSettings

NEAREST, BILINEAR = Method("nearest", "nearest"), Method("bilinear", "bilinear")


@pytest.fixture
def replace_processes(monkeypatch):
    """A function that lets the next processes run Python code instead of training."""
    start, codes = run_process.subprocess.Popen, []
    monkeypatch.setattr(
        run_process.subprocess,
        "Popen",
        lambda words, **options: start([sys.executable, "-c", codes.pop(0)] if codes else words, **options),
    )
    return codes.extend


def test_a_run_whose_process_is_killed_ends_alone(fabric, preset, shapes_dir, tmp_path, capfd, replace_processes):
    """It kills itself, as the system does when memory runs out."""
    replace_processes(["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    settings = ExperimentSettings(preset, shapes_dir, tmp_path / "out", (NEAREST, BILINEAR))
    failures = train_experiment(fabric, settings, train_in_turn)
    assert list(failures) == ["nearest seed 0"]
    assert "SIGKILL" in failures["nearest seed 0"]
    assert (tmp_path / "out" / "bilinear" / "seed0" / "result.json").is_file()
    text = capfd.readouterr().out
    assert "nearest seed 0" in text
    assert "step 2/2" in text


def test_the_error_of_a_run_is_printed_once(settings, capfd, replace_processes):
    replace_processes(["import sys; print('error: no weights', file=sys.stderr); sys.exit(1)"])
    assert train_in_turn(settings, settings.runs()[:1], "32-true", print) == {"nearest seed 0": "no weights"}
    output, errors = capfd.readouterr()
    assert (output.count("no weights"), errors) == (1, "")


@pytest.fixture
def task(settings):
    return run_task(settings, settings.runs()[0], "32-true")


def test_the_error_of_a_process_is_the_last_in_its_log(task, tmp_path, replace_processes):
    code = "import sys; print('error: second', file=sys.stderr); print('output'); sys.exit(1)"
    replace_processes([code, "raise SystemExit(3)", "pass"])
    log = tmp_path / "log.txt"
    log.write_text("error: first\n")
    failures = []
    for _ in range(3):
        with RunProcess(task, {}, log) as process:
            failures.append(process.failure())
    assert failures == ["second", f"its process ended with code 3; see {log}", ""]
    assert sorted(log.read_text().splitlines()) == ["error: first", "error: second", "output"]


def test_a_process_that_cannot_print_its_error_asks_for_the_disk(task, replace_processes):
    replace_processes([f"raise SystemExit({run_process.EXIT_LOG_UNWRITABLE})"])
    with RunProcess(task, {}) as process:
        assert "is the disk full?" in process.failure()


def test_an_interruption_ends_the_input_of_the_process(task, tmp_path, replace_processes):
    log = tmp_path / "log.txt"
    replace_processes(["import sys; print(sys.stdin.read(), flush=True); sys.exit(130)"])
    with pytest.raises(KeyboardInterrupt), RunProcess(task, {}, log) as process:
        raise KeyboardInterrupt
    assert process.wait() == run_process.EXIT_INTERRUPTED
    assert '"preset"' in log.read_text()


def test_a_process_that_does_not_stop_is_killed_and_the_cause_is_raised(task, monkeypatch, replace_processes):
    monkeypatch.setattr(run_process, "_TIMEOUT_SECONDS", 0.1)
    replace_processes(["import time; time.sleep(600)"])
    with pytest.raises(KeyboardInterrupt), RunProcess(task, {}) as process:
        raise KeyboardInterrupt
    assert process.wait() == -signal.SIGKILL


def test_sigterm_is_an_interrupt():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is handler
