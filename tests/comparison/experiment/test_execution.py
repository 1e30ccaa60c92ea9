import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.precision import MixedPrecision

from afictl.comparison import Method, compare
from afictl.comparison.experiment import comparison_run, execution
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.preconditions import check_experiment
from afictl.weights import read_checkpoint
from tests.helpers.earlier_versions import rewrite_comparison
from tests.helpers.full_disk import fill_disk_for, needs_dev_full
from tests.helpers.locks import locking_process


def refuse_training(*args, **kwargs):
    raise AssertionError("trained again")


def read_json(path):
    return json.loads(path.read_text())


def test_every_run_has_a_run_folder_and_a_result(finished):
    folders = [finished.output / name / f"seed{seed}" for name in ("afi", "nearest") for seed in (0, 1)]
    assert sorted(file.parent for file in finished.output.glob("*/*/result.json")) == folders
    for folder in folders:
        result = read_json(folder / "result.json")
        assert list(result) == ["interpolator", "seed", "metrics", "per_class", "seconds", "ids"]
        assert result["seed"] == int(folder.name[-1])
        assert {"box/AP", "box/APs"} <= set(result["metrics"])
        assert all(row["objects"] > 0 and "box/AP" in row for row in result["per_class"])
        assert result["seconds"] > 0
        assert isinstance(read_json(folder / "predictions.json"), list)
        assert (folder / "config.yaml").is_file()
        assert not (folder / "state.pt").exists()  # three times the size of the weights


def test_keys_of_compare_json(finished):
    content = read_json(finished.output / "compare.json")
    settings = ["preset", "data", "weights", "backbone_weights", "precision", "averaged", "tune"]
    assert list(content) == [*settings, "classes", "contents"]


@needs_dev_full
def test_a_full_disk_fails_one_run_which_is_continued_later(fabric, settings, monkeypatch):
    failing, other = (settings.output / name / "seed0" for name in ("afi", "nearest"))
    score_predictions = comparison_run.score_predictions

    def fill_disk_and_score(path, *args, **kwargs):
        if path.parent == failing:
            fill_disk_for(failing / "result.json")
        return score_predictions(path, *args, **kwargs)

    monkeypatch.setattr(comparison_run, "score_predictions", fill_disk_and_score)
    failures = train_experiment(fabric, settings)
    assert list(failures) == ["afi seed 0"]
    assert str(failing / "result.json") in failures["afi seed 0"]
    assert (failing / "state.pt").is_file()
    assert (settings.output / "compare.json").is_file()
    monkeypatch.undo()
    modified = (other / "result.json").stat().st_mtime_ns
    assert train_experiment(fabric, settings) == {}
    assert (other / "result.json").stat().st_mtime_ns == modified


def test_a_missing_result_is_written_again_without_training(fabric, settings, finished):
    shutil.copytree(finished.output, settings.output)
    run = settings.output / "nearest" / "seed0"
    (run / "result.json").unlink()
    assert train_experiment(fabric, settings) == {}
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    expected = read_json(finished.output / "nearest" / "seed0" / "result.json")
    assert read_json(run / "result.json")["metrics"] == expected["metrics"]


def test_every_run_starts_with_the_initial_scaler_of_16_bit_gradients(fabric, settings, monkeypatch):
    precision = MixedPrecision("16-mixed", "cpu")
    monkeypatch.setattr(fabric.strategy, "_precision", precision)
    scales = []

    def change_scale(fabric, preset, data, run):
        run.folder.mkdir(parents=True)
        (run.folder / "result.json").touch()
        scales.append(precision.scaler.get_scale())
        precision.scaler.load_state_dict({**precision.scaler.state_dict(), "scale": 3.0})

    monkeypatch.setattr(execution, "train_run", change_scale)
    assert train_experiment(fabric, settings) == {}
    assert scales[0] == scales[1] > 3


def test_finished_runs_are_not_trained_again(finished, fabric, monkeypatch, capsys):
    monkeypatch.setattr(comparison_run, "finetune", refuse_training)
    assert train_experiment(fabric, finished) == {}
    assert "4 of 4 runs" in capsys.readouterr().out


def test_a_comparison_of_an_earlier_version_is_continued(settings, finished, fabric, monkeypatch):
    shutil.copytree(finished.output, settings.output)
    rewrite_comparison(settings.output)
    monkeypatch.setattr(execution, "train_run", refuse_training)
    assert train_experiment(fabric, replace(settings, seeds=(0, 1))) == {}


def test_unrelated_finished_runs_are_listed(finished, fabric, capsys):
    assert train_experiment(fabric, replace(finished, methods=finished.methods[:1], seeds=(1,))) == {}
    assert "afi/seed0, afi/seed1, nearest/seed0\n" in capsys.readouterr().out


def test_only_added_methods_and_seeds_are_trained(fabric, settings, monkeypatch):
    trained = []

    def write_result(fabric, preset, data, run):
        trained.append(str(run.folder.relative_to(settings.output)))
        run.folder.mkdir(parents=True)
        result = {"interpolator": run.initial_weights.as_config()["interpolator"], "seed": run.seed, "seconds": 1.0}
        (run.folder / "result.json").write_text(json.dumps(result | {"metrics": {}, "per_class": []}))

    monkeypatch.setattr(execution, "train_run", write_result)
    train_experiment(fabric, settings)
    assert trained == ["nearest/seed0", "afi/seed0"]
    trained.clear()
    methods = (*settings.methods, Method("bilinear", "bilinear"))
    train_experiment(fabric, replace(settings, methods=methods, seeds=(0, 1)))
    assert trained == ["bilinear/seed0", "nearest/seed1", "afi/seed1", "bilinear/seed1"]


def test_an_interrupted_run_is_continued_bit_for_bit(fabric, settings, finished, monkeypatch):
    settings = replace(settings, seeds=(0, 1))
    steps = []

    def interrupt_step_4(logger, step, *args):
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr("afictl.training.logger.TrainingLogger.log_step", interrupt_step_4)
        with pytest.raises(KeyboardInterrupt):
            train_experiment(fabric, settings)
    assert (settings.output / "nearest" / "seed0" / "result.json").is_file()
    assert not (settings.output / "afi" / "seed0" / "result.json").exists()
    train_experiment(fabric, settings)
    for run, uninterrupted in zip(settings.runs(), finished.runs(), strict=True):
        tensors, expected = (read_checkpoint(r.folder / "last.safetensors").tensors for r in (run, uninterrupted))
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_a_diverged_run_does_not_stop_the_other_runs(fabric, settings, monkeypatch):
    def diverge(losses):
        if not (settings.output / "afi").exists():
            raise FloatingPointError("loss_box_reg became nan")
        return {name: value.item() for name, value in losses.items()}

    arguments = (fabric, settings.preset, settings.data, settings.methods, settings.output)
    with monkeypatch.context() as patch:
        patch.setattr("afictl.training.loop.mean_losses", diverge)
        outcome = compare(*arguments)
    assert list(outcome.failures) == ["nearest seed 0"]
    assert "loss_box_reg became nan at step 1" in outcome.failures["nearest seed 0"]
    assert [method.name for method in outcome.comparison.methods] == ["afi"]
    outcome = compare(*arguments)
    assert outcome.failures == {}
    assert [method.name for method in outcome.comparison.methods] == ["nearest", "afi"]


def test_an_unexpected_error_is_logged_with_its_traceback(fabric, settings, monkeypatch):
    def fail(fabric, preset, data, run):
        run.folder.mkdir(parents=True)
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(execution, "train_run", fail)
    failures = train_experiment(fabric, settings)
    assert list(failures) == ["nearest seed 0", "afi seed 0"]
    assert all("RuntimeError: out of memory" in failure for failure in failures.values())
    assert "Traceback" in (settings.output / "nearest" / "seed0" / "log.txt").read_text()


def test_without_finished_runs_there_is_no_comparison(fabric, settings, monkeypatch):
    monkeypatch.setattr(comparison_run, "finetune", refuse_training)
    outcome = compare(fabric, settings.preset, settings.data, settings.methods, settings.output)
    assert outcome.comparison is None
    assert set(outcome.failures) == {"nearest seed 0", "afi seed 0"}


def test_runs_that_other_commands_train_are_waited_for(fabric, settings, monkeypatch, capsys):
    """One of them is finished there, the other one is left unfinished and trained here."""
    settings = replace(settings, seeds=(0, 1))
    left, finishing = (settings.output / "nearest" / name for name in ("seed0", "seed1"))
    trained = []

    def write_result(fabric, preset, data, run):
        trained.append(str(run))
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / "result.json").touch()

    def end_other_commands(seconds):
        write_result(None, None, None, settings.run(settings.methods[0], 1))
        for process in (first, second):
            process.kill()
            process.wait()

    monkeypatch.setattr(execution, "train_run", write_result)
    monkeypatch.setattr(execution, "time", SimpleNamespace(sleep=end_other_commands))
    check_experiment(fabric, settings)
    with locking_process(left) as first, locking_process(finishing) as second:
        assert train_experiment(fabric, settings) == {}
    assert sorted(trained[:2]) == ["afi seed 0", "afi seed 1"]
    assert trained[2:] == ["nearest seed 1", "nearest seed 0"]
    assert (
        f"waiting for runs that other commands train: nearest seed 0 (process {first.pid} " in capsys.readouterr().out
    )


def test_a_run_that_diverges_elsewhere_is_not_tried_again(fabric, settings, monkeypatch):
    monkeypatch.setattr(execution, "train_run", refuse_training)
    settings = replace(settings, methods=settings.methods[:1])
    (run,) = settings.runs()

    def diverge(seconds):
        (run.folder / "diverged.txt").write_text("the loss is not finite")
        process.kill()
        process.wait()

    monkeypatch.setattr(execution, "time", SimpleNamespace(sleep=diverge))
    check_experiment(fabric, settings)
    with locking_process(run.folder) as process:
        assert train_experiment(fabric, settings) == {str(run): "the loss is not finite"}


def test_a_finished_or_locked_run_is_left_alone(fabric, settings, preset, monkeypatch):
    """As another command may begin and finish it after it was chosen."""
    monkeypatch.setattr(comparison_run, "finetune", refuse_training)
    finished, locked = settings.runs()
    finished.folder.mkdir(parents=True)
    (finished.folder / "result.json").touch()
    comparison_run.train_run(fabric, preset, settings.data, finished)
    with locking_process(locked.folder):
        comparison_run.train_run(fabric, preset, settings.data, locked)
