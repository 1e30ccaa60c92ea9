"""A small evaluation before a long training finds its faults, and changes nothing."""

import pytest

from afictl.training import InitialWeights, detector_stages, finetune, loop
from tests.helpers.tiny_runs import assert_same_states


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(loop, "_TRIAL_STEPS", 0)


def test_it_leaves_the_training_as_it_is(fabric, preset, shapes_dir, guide_run, tmp_path, monkeypatch):
    limits = []
    evaluate = detector_stages.evaluate

    def count(*args, limit=None, **options):
        limits.append(limit)
        return evaluate(*args, limit=limit, **options)

    monkeypatch.setattr(detector_stages, "evaluate", count)
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    assert limits == [2, None]
    assert_same_states(guide_run, tmp_path / "run", ("detector", "detector_optimizer", "best", "metrics", "step"))
    finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"), resume=True)
    assert limits == [2, None]


def test_a_fault_of_the_evaluation_ends_the_run_before_its_first_step(
    fabric, preset, shapes_dir, tmp_path, monkeypatch
):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(detector_stages, "evaluate", fail)
    with pytest.raises(MemoryError):
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("nearest"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
