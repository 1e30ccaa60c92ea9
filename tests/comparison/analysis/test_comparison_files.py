"""Keys and columns of the files of a comparison, which other programs read."""

import csv
import json
from dataclasses import replace

import pytest

from afictl.comparison.analysis.comparison_files import write_comparison_tables
from tests.helpers.comparisons import make_comparison

METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
COST = [
    "parameters",
    "interpolator_parameters",
    "multiply_adds",
    "interpolator_multiply_adds",
    "milliseconds",
    "interpolator_milliseconds",
    "peak_bytes",
    "interpolator_peak_bytes",
]
SPREAD = ["seeds", "deviation", "difference_deviation", "half_width", "seeds_for_0.5", "seeds_for_1"]


@pytest.fixture
def folder(shapes_dir, tmp_path):
    comparison = make_comparison(shapes_dir, tmp_path / "runs", masks=False)
    write_comparison_tables(replace(comparison, cost_basis={"device": "cpu"}), tmp_path)
    return tmp_path


def test_keys_of_comparison_json(folder):
    content = json.loads((folder / "comparison.json").read_text())
    keys = ["preset", "annotation_file", "image_dir", "baseline", "conditions", "methods", "price_basis"]
    assert list(content) == keys
    assert content["conditions"]["schedule"] == "800 steps of 4 images"
    assert content["price_basis"] == {"device": "cpu"}
    method = content["methods"][1]
    keys = ["name", "source", "cells", "price", "mean", "deviation", "difference", "verdict", "origin", "spread"]
    assert list(method) == [*keys, "tuning"]
    assert list(method["cells"][0]) == ["seed", "folder", "metrics", "per_class", "training_seconds"]
    assert list(method["price"]) == ["image_hw", *COST, "scatter"]
    assert method["price"]["image_hw"] == [480, 640]
    assert list(method["difference"]["box/AP"]) == ["mean", "low", "high", "seeds", "claimed", "deviation"]
    assert list(method["spread"]) == ["box/AP"]
    assert list(method["spread"]["box/AP"]) == SPREAD
    assert list(method["cells"][0]["metrics"]) == [f"box/{name}" for name in METRICS]


def read_header(path):
    with path.open() as file:
        return next(csv.reader(file))


def test_columns_of_comparison_csv(folder):
    statistics = [
        "{0}",
        "{0} sd",
        *(f"{{0}} difference {name}" for name in ("mean", "low", "high", "seeds", "claimed")),
    ]
    metrics = [column.format(f"box/{name}") for name in METRICS for column in statistics]
    cost = ["image_width", "image_height", *COST]
    expected = ["interpolator", "source", "seeds", *metrics, *cost, "training_seconds", "verdict", "origin"]
    expected += [f"box/AP {key}" for key in SPREAD]
    assert read_header(folder / "comparison.csv") == expected


def test_columns_of_runs_csv(folder):
    metrics = [f"box/{name}" for name in METRICS]
    assert read_header(folder / "runs.csv") == ["interpolator", "seed", *metrics, "training_seconds", "folder"]
