"""A small evaluation before a long training finds its faults, and changes nothing."""

import pytest

from afictl.training import InitialWeights, detector_stages, finetune, loop, pretrain, stage1, stage2
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


@pytest.mark.slow
def test_pre_training_tries_its_measurements_too(fabric, shapes_dir, guide_run, tmp_path, monkeypatch):
    limits = []
    for module, name in ((stage1, "measure_feature_distance"), (stage2, "measure_student_distance")):
        measure = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, measure=measure, limit, **k: limits.append(limit) or measure(*a, limit=limit, **k)
        )
    overrides = [f"{stage}.{key}=1" for stage in ("stage1", "stage2") for key in ("steps", "eval_every")]
    for name, steps in (("tried", 0), ("plain", 100)):
        monkeypatch.setattr(loop, "_TRIAL_STEPS", steps)
        pretrain(fabric, guide_run, shapes_dir, tmp_path / name, overrides=overrides)
    assert limits == [2, 200, 2, 200, 200, 200]
    for stage, parts in (("stage1", ("generator", "discriminator")), ("stage2", ("student", "discriminator"))):
        assert_same_states(tmp_path / "plain" / stage, tmp_path / "tried" / stage, parts)
