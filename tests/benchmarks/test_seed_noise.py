"""The benchmark of noise between seeds, with random predictions instead of training."""

import json
from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest

from afictl.evaluation import score_predictions
from afictl.evaluation.ground_truth import ground_truth_of
from afictl.evaluation.predictions import read_predictions
from afictl.training.seeds import Seeds
from benchmarks import seed_noise
from tests.helpers.comparisons import make_run

ANNOTATIONS = "annotations/instances_val2017.json"


@pytest.fixture
def write_run(shapes_dir):
    """A function that writes a run with random predictions."""
    file = shapes_dir / ANNOTATIONS
    truth = json.loads(file.read_text())
    return lambda folder, seed: make_run(folder, truth, file, 4, seed, masks=False)


def test_runs_of_a_group_differ_in_one_stream():
    groups = seed_noise.groups_of_runs(3)
    assert list(groups["nothing"].values()) == [Seeds.of(0)] * 2
    assert groups["order"] == {f"order-{k}": replace(Seeds.of(0), order=k) for k in (1, 2)}
    assert groups["all"] == {"all-1": Seeds.of(1), "all-2": Seeds.of(2)}
    assert len({name for group in groups.values() for name in group}) == 12


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [(0.975, 1, 5.02389), (0.025, 5, 0.831212), (0.975, 5, 12.8325), (0.95, 100, 124.342)],
)
def test_chi_square_quantiles_equal_printed_tables(probability, degrees, expected):
    assert seed_noise.chi_square_quantile(probability, degrees) == pytest.approx(expected, rel=1e-5)


def test_accuracy_of_resampled_images_is_that_of_the_scorer(write_run, shapes_dir, tmp_path):
    write_run(tmp_path / "run", 0)
    file = tmp_path / "run" / "predictions.json"
    truth = ground_truth_of(shapes_dir / ANNOTATIONS, None)
    predictions = read_predictions(file, truth, restricted=False)
    for images in ([0, 1, 2, 3, 4, 5], [1, 4]):
        ids = truth.image_ids[images].tolist()
        expected = score_predictions(file, shapes_dir / ANNOTATIONS, image_ids=ids).metrics["box/AP"]
        assert seed_noise.accuracy_of_images(truth, predictions, np.array(images)) == pytest.approx(expected)
    once, twice = (
        seed_noise.accuracy_of_images(truth, predictions, np.array(images)) for images in ([1, 1, 4, 4], [1, 4, 4])
    )
    assert once == pytest.approx(expected, abs=1)  # all objects are repeated
    assert twice != once


def test_table_has_the_spread_of_each_group(write_run, shapes_dir, tmp_path, monkeypatch, capsys):
    trained = []

    def finetune(fabric, preset, data, folder, initial, *, seed, resume):
        assert preset.train.steps == 150
        assert initial.weights == tmp_path / "shapes" / "guide"
        if not folder.exists():
            trained.append(folder.name)
            write_run(folder, int("".join(str(value) for value in vars(seed).values())))

    monkeypatch.setattr(seed_noise, "finetune", finetune)
    monkeypatch.setattr(seed_noise, "_RESAMPLES", 3)
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "data").symlink_to(shapes_dir)
    file = tmp_path / "noise.json"
    arguments = ["--evidence", str(tmp_path), "--output", str(tmp_path / "runs"), "--json", str(file)]
    seed_noise.main([*arguments, "--runs", "2"])
    assert trained == [
        "seed0",
        "repetition",
        *(f"{s}-1" for s in ("weights", "order", "augmentation", "sampling", "all")),
    ]
    seed_noise.main([*arguments, "--runs", "3", "--last", "2"])
    assert len(trained) == 12  # none is repeated
    results = json.loads(file.read_text())
    assert (results["spread"]["nothing"]["deviation"], results["spread"]["all"]["runs"]) == (0, 3)
    points = [sum(results["runs"][name][-2:]) / 2 for name in ("seed0", "order-1", "order-2")]
    assert results["spread"]["order"]["deviation"] == pytest.approx(stdev(points))
    assert results["spread"]["order"]["low"] < stdev(points) < results["spread"]["order"]["high"]
    assert results["spread"]["evaluation images"]["deviation"] > 0
    assert "evaluation images, of a difference" in capsys.readouterr().out
