"""``train.patience``: training ends after evaluations without a better one."""

from types import SimpleNamespace

import pytest
import torch

from afictl.comparison.analysis.existing_runs import read_run
from afictl.comparison.analysis.settings_summary import unequal_settings
from afictl.run_folder import LAST
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, detector_stages, finetune
from afictl.weights import read_checkpoint
from tests.helpers.tiny_runs import assert_same_states, interrupted_at_batch, with_steps

SCORES = [1.0, 3.0, 2.0, 3.0, 9.0, 9.0]  # an equal score is none that is higher


@pytest.fixture
def train(fabric, preset, shapes_dir, tmp_path, monkeypatch):
    """A training of six steps, each with an evaluation that has one of ``SCORES``."""

    def train(name, patience=2, **options):
        folder = tmp_path / name

        def evaluate(*args, **kwargs):
            evaluations = (
                [r for r in read_metrics(folder) if "box/AP" in r] if (folder / "metrics.jsonl").exists() else []
            )
            return SimpleNamespace(metrics={"box/AP": SCORES[len(evaluations)]})

        monkeypatch.setattr(detector_stages, "evaluate", evaluate)
        steps = with_steps(preset, steps=6, eval_every=1, checkpoint_every=2, patience=patience)
        finetune(fabric, steps, shapes_dir, folder, InitialWeights("nearest"), **options)
        return folder

    return train


def test_a_training_ends_when_its_patience_does(train, tmp_path):
    run = train("run")
    assert torch.load(run / "state.pt", weights_only=True)["step"] == 4
    assert "ended early after step 4: no higher score for 2 evaluations" in (run / "log.txt").read_text()
    description = read_checkpoint(run / LAST).metadata
    assert (description["step"], description["ended_early"]) == (4, True)
    assert read_checkpoint(run / "best.safetensors").metadata["metrics"] == {"box/AP": 3.0}

    before = (run / "metrics.jsonl").read_bytes()
    train("run", resume=True)  # nothing is left to do
    assert (run / "metrics.jsonl").read_bytes() == before

    with interrupted_at_batch(4):
        train("resumed")
    train("resumed", resume=True)
    assert_same_states(run, tmp_path / "resumed", ("detector", "step", "evaluations_since_best"))


def test_a_comparison_takes_it_as_finished_and_names_the_steps(train):
    early, whole = read_run(train("early")), read_run(train("whole", patience=None))
    unequal = unequal_settings({"a": early.config, "b": whole.config})
    assert unequal["trained_steps"] == "4: a; 6: b"
