"""Choice of a setting for each method on a part of the training images."""

import json
from dataclasses import replace

import pytest
import yaml

from afictl import UserError
from afictl.comparison import compare, parse_tuning, pipeline
from afictl.comparison.experiment import comparison_run, tuning
from afictl.comparison.experiment.preconditions import check_experiment
from afictl.data import load_dataset
from afictl.training.loop import DivergedError
from afictl.training.splits import load_splits
from afictl.training.stage3 import FinetuneOutcome
from tests.helpers.comparisons import make_cost

RATES = "train.lr=0.001,0.003,1e-05"


@pytest.fixture
def scores():
    """Box AP by method and learning rate on the held-out training images; None diverges."""
    return {"nearest": {0.001: 10.0, 0.003: 20.0, 1e-5: 20.0}, "afi": {0.001: 3.0, 0.003: None, 1e-5: None}}


@pytest.fixture
def trained(monkeypatch, scores):
    """Runs that were begun, as (method, seed, learning rate); no step is trained."""
    runs = []

    def finetune(fabric, preset, data, output, initial, *, seed, resume, inputs):
        method = output.parent.name
        runs.append((method, seed, preset.train.lr))
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump({"preset": preset.model_dump(mode="json")}))
        (output / "predictions.json").write_text("[]")
        ap = scores[method][preset.train.lr] if "tuning" in output.parts else 50.0 + seed * (method == "afi")
        if ap is None:
            raise DivergedError("loss became nan")
        return FinetuneOutcome({"box/AP": ap}, 1.0, load_splits(data), "")

    monkeypatch.setattr(comparison_run, "finetune", finetune)
    return runs


@pytest.fixture
def tuned(settings):
    return replace(settings, tuning=parse_tuning(RATES, settings.preset), seeds=(0, 1))


def test_every_method_gets_the_value_with_the_best_score_on_training_images(fabric, tuned, trained):
    settings, tunings, failures = tuning.tune(fabric, tuned)
    assert failures == {}
    assert {name: item.chosen for name, item in tunings.items()} == {"nearest": 0.003, "afi": 0.001}
    assert {name: settings.preset_of(name).train.lr for name in tunings} == {"nearest": 0.003, "afi": 0.001}
    assert sorted(trained) == sorted((m, 1_000_000, lr) for m in ("nearest", "afi") for lr in (0.001, 0.003, 1e-5))
    assert [value.failure for value in tunings["afi"].values] == ["", *["diverged: loss became nan"] * 2]
    trained.clear()
    assert tuning.tune(fabric, tuned)[1] == tunings
    assert trained == []  # neither the finished runs nor those that diverged


def test_the_parts_are_training_images_alone_and_disjoint(fabric, tuned, trained, shapes_dir):
    tuning.tune(fabric, tuned)
    source = load_dataset(shapes_dir, "train")
    parts = [load_dataset(tuned.output / "tuning" / "data", split) for split in ("train", "val")]
    ids = [set(part.image_ids) for part in parts]
    assert ids[0] | ids[1] == set(source.image_ids)
    assert not ids[0] & ids[1]
    assert [len(part) for part in ids] == [11, 3]
    assert all(part.classes == source.classes for part in parts)
    index = source.image_ids.index(parts[1].image_ids[0])
    assert parts[1].image_path(0).read_bytes() == source.image_path(index).read_bytes()
    assert parts[1].objects(0).ids.equal(source.objects(index).ids)


def test_a_method_without_a_usable_value_fails_alone(fabric, tuned, trained, scores):
    scores["afi"][0.001] = None
    settings, tunings, failures = tuning.tune(fabric, tuned)
    assert list(tunings) == ["nearest"]
    assert [method.name for method in settings.methods] == ["nearest"]
    assert failures == {"afi": "no value of train.lr can be chosen: diverged: loss became nan"}


def test_a_crashed_run_is_tried_again_before_a_value_is_chosen(fabric, tuned, trained, scores):
    del scores["afi"][0.001]
    _, tunings, failures = tuning.tune(fabric, tuned)
    assert list(tunings) == ["nearest"]
    assert next(iter(failures)) == "afi seed 1000000 with train.lr=0.001"
    scores["afi"][0.001] = 5.0
    assert tuning.tune(fabric, tuned)[1]["afi"].chosen == 0.001


def test_a_comparison_trains_and_reports_the_chosen_values(
    fabric, tuned, trained, methods, shapes_dir, tmp_path, monkeypatch
):
    costs = {method.name: make_cost(0) for method in methods}
    monkeypatch.setattr(pipeline, "costs_of_runs", lambda *args, **kwargs: (costs, {}))
    output = tmp_path / "comparison"
    arguments = (fabric, tuned.preset, shapes_dir, methods, output)
    comparison = compare(*arguments, seeds=(0, 1), tuning=tuned.tuning).comparison
    chosen = {"nearest": 0.003, "afi": 0.001}
    assert {run for run in trained if run[1] < 2} == {(name, s, lr) for name, lr in chosen.items() for s in (0, 1)}
    assert "lr tuned" in comparison.settings["schedule"]
    assert not any(key.startswith("NOT THE SAME") for key in comparison.settings)
    record = json.loads((output / "comparison.json").read_text())["methods"][1]["tuning"]
    assert (record["key"], record["chosen"]) == ("train.lr", 0.001)
    assert record["scores"][0] == {"value": 0.001, "box/AP": 3.0, "failure": ""}
    assert "Tuning: box AP" in (output / "report.html").read_text()
    with pytest.raises(UserError, match="other settings"):
        compare(*arguments, tuning=parse_tuning("train.lr=0.001,0.003", tuned.preset))
    with pytest.raises(UserError, match="other settings"):
        compare(*arguments)


@pytest.fixture
def tune_and_add_seeds(fabric, tuned, trained, methods, shapes_dir, monkeypatch):
    """``compare`` that tunes and adds seeds up to a largest number, without costs and report."""
    costs = {method.name: make_cost(0) for method in methods}
    monkeypatch.setattr(pipeline, "costs_of_runs", lambda *args, **kwargs: (costs, {}))
    monkeypatch.setattr(pipeline, "write_comparison_folder", lambda *args: None)
    arguments = (fabric, tuned.preset, shapes_dir, methods, tuned.output)
    return lambda most: compare(*arguments, seeds=(0, 1), tuning=tuned.tuning, until=1.0, max_seeds=most).comparison


def test_seeds_that_are_added_have_the_chosen_value(tune_and_add_seeds, trained):
    comparison = tune_and_add_seeds(3)
    chosen = {"nearest": 0.003, "afi": 0.001}
    assert sorted(trained[6:]) == sorted((name, seed, lr) for name, lr in chosen.items() for seed in range(3))
    assert {seed for _, seed, _ in trained[:6]} == {1_000_000}  # chosen once, before the first seed
    assert comparison.settings["added seeds"].endswith("; not reached by afi 3 (half-width 2.48)")
    trained.clear()
    tune_and_add_seeds(4)
    assert trained == [("nearest", 3, 0.003), ("afi", 3, 0.001)]


def test_no_seeds_are_added_where_tuning_leaves_the_baseline_alone(tune_and_add_seeds, trained, scores):
    scores["afi"][0.001] = None
    comparison = tune_and_add_seeds(3)
    assert sorted(trained[6:]) == [("nearest", 0, 0.003), ("nearest", 1, 0.003)]
    assert "added seeds" not in comparison.settings


def test_training_images_that_change_after_the_tuning_began_are_noticed(fabric, tuned, trained, tmp_path):
    data = tmp_path / "data"
    tuning.split_training_images(tuned.data, data, 0.4)
    settings = replace(tuned, data=data)
    tuning.tune(fabric, settings)
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"].pop()
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its content has changed since"):
        check_experiment(fabric, settings)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("train.lr", ("KEY=VALUE",)),
        ("train.lr=", ("KEY=VALUE",)),
        ("train.lr=0.1", ("--set train.lr=0.1", "two values")),
        ("train.lr=0.1,1e-1", ("0.1", "twice")),
        ("train.lr=0.1,fast", ("--tune train.lr", "number")),
        ("train.lr=0.1,-1", ("--tune train.lr", "greater")),
        ("train.rate=1,2", ("train.rate", "train.lr")),
        ("train.steps=100,200", ("train.steps", "the same for all methods")),
        ("detector.kind=fcos,retinanet", ("detector.kind",)),
    ],
)
def test_unusable_grids_are_refused(preset, text, facts):
    with pytest.raises(UserError) as error:
        parse_tuning(text, preset)
    assert all(fact in str(error.value) for fact in ("--tune", *facts))


def test_reserved_seed_and_name_are_refused(fabric, tuned):
    with pytest.raises(UserError, match="another --seed"):
        tuning.tune(fabric, replace(tuned, seeds=(1_000_000,)))
    with pytest.raises(UserError, match="'tuning'"):
        tuning.tune(fabric, replace(tuned, methods=(replace(tuned.methods[0], name="tuning"),)))
