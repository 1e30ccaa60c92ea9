"""``--log``: metrics go to TensorBoard, Weights & Biases or MLflow, here stand-ins of the packages."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from afictl import UserError
from afictl.cli import options
from afictl.training import metric_loggers
from afictl.training.run_writer import RunWriter

VALUES = {"loss": 1.5, "box/AP": None}


@pytest.fixture
def wandb(monkeypatch):
    """A package whose ``calls`` are recorded."""
    package, calls = ModuleType("wandb"), []

    def init(**arguments):
        calls.append(("init", arguments))
        log = lambda values, step: calls.append(("log", values, step))  # noqa: E731
        return SimpleNamespace(id=arguments["id"] or "abc", log=log, finish=lambda: calls.append(("finish",)))

    package.init, package.calls = init, calls
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


@pytest.fixture
def mlflow(monkeypatch):
    package, calls = ModuleType("mlflow"), []

    def start_run(run_id, run_name):
        calls.append(("start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "xyz"))

    package.start_run, package.calls = start_run, calls
    package.log_dict = lambda values, name: calls.append(("config", values, name))
    package.log_metrics = lambda values, step: calls.append(("log", values, step))
    package.end_run = lambda: calls.append(("end",))
    monkeypatch.setitem(sys.modules, "mlflow", package)
    return package


def test_services_get_settings_and_numbers_and_a_resumed_run_is_the_same(fabric, tmp_path, wandb, mlflow):
    names = ("wandb", "mlflow")
    for resume in (False, True):
        run = RunWriter(fabric, tmp_path / "run", {"seed": 3}, resume, loggers=names)
        run.log_metrics(7, VALUES)
        run.close()
    first, second = (call[1] for call in wandb.calls if call[0] == "init")
    assert (first["config"], first["name"], first["id"], second["id"]) == ({"seed": 3}, "run", None, "abc")
    assert wandb.calls[1:3] == [("log", {"loss": 1.5}, 7), ("finish",)]
    assert [call for call in mlflow.calls if call[0] == "start"] == [("start", None, "run"), ("start", "xyz", None)]
    assert ("log", {"loss": 1.5}, 7) in mlflow.calls
    assert not list((tmp_path / "run").glob("events*"))
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_is_one_of_several(fabric, tmp_path, wandb):
    run = RunWriter(fabric, tmp_path / "run", {}, resume=False, loggers=("tensorboard", "wandb"))
    run.log_metrics(1, VALUES)
    run.close()
    assert list((tmp_path / "run").glob("events*"))
    assert ("log", {"loss": 1.5}, 1) in wandb.calls


def test_a_service_that_fails_does_not_end_the_training(fabric, tmp_path, mlflow):
    def fail(values, step):
        raise ConnectionError("no network")

    mlflow.log_metrics = mlflow.end_run = fail
    run = RunWriter(fabric, tmp_path / "run", {}, resume=False, loggers=["mlflow"])
    for step in (1, 2):
        run.log_metrics(step, VALUES)
    run.close()
    assert (run.folder / "log.txt").read_text() == "warning: --log mlflow: gets no more values (no network)\n"


def test_a_service_that_does_not_start_is_an_error(fabric, tmp_path, wandb):
    def fail(**arguments):
        raise RuntimeError("no login")

    wandb.init = fail
    with pytest.raises(UserError, match="--log wandb: no login"):
        RunWriter(fabric, tmp_path / "run", {}, resume=False, loggers=["wandb"])


def test_absent_packages_and_other_names_are_told_before_the_start(afictl, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ("finetune", "--preset", "faster-rcnn-r18-fpn-tiny", "--data", "D")
    code, _, error = afictl(*words, "--log", "wandb")
    assert code == 2
    assert "--log wandb needs the optional package wandb: pip install 'afictl[wandb]'" in error
    code, _, error = afictl(*words, "--log", "comet")
    assert code == 2
    assert "comet" in error
    assert metric_loggers.LOGGER_NAMES == options.LOGGERS
