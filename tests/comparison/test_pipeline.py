import csv
import json
from importlib import import_module

import pytest

from afictl import UserError
from afictl.comparison import compare
from afictl.comparison.cost.measurement import measure_costs
from afictl.comparison.pipeline import write_comparison_folder
from tests.helpers.comparisons import make_comparison
from tests.helpers.full_disk import killed_draft


def test_accuracy_and_price_of_every_method(fabric, preset, methods, shapes_dir, tmp_path, monkeypatch):
    answer = compare(fabric, preset, shapes_dir, methods, tmp_path / "out", seeds=(0, 1))
    assert answer.failures == {}
    found = answer.comparison
    nearest, afi = found.methods
    assert (nearest.name, afi.name, found.baseline) == ("nearest", "afi", "nearest")
    assert [cell.seed for cell in afi.runs] == [0, 1]
    for method in found.methods:
        values = [cell.metrics["box/AP"] for cell in method.runs]
        assert method.mean["box/AP"] == pytest.approx(sum(values) / 2)
        assert method.cost.milliseconds > method.cost.interpolator_milliseconds > 0
    assert afi.difference["box/AP"].seeds == 2
    assert found.annotation_file == shapes_dir / "annotations" / "instances_val2017.json"
    assert found.settings["schedule"] == "2 steps of 2 images, adamw, lr 0.001, cosine"

    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [method["name"] for method in written["methods"]] == ["nearest", "afi"]
    with (tmp_path / "out" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["interpolator"] for row in rows] == ["nearest", "afi"]
    assert float(rows[1]["interpolator_parameters"]) == afi.cost.interpolator_parameters
    assert float(rows[1]["box/AP difference mean"]) == pytest.approx(afi.difference["box/AP"].mean)
    assert rows[1]["box/AP difference seeds"] == "2"
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = [(row["interpolator"], row["seed"]) for row in csv.DictReader(file)]
    assert rows == [("nearest", "0"), ("nearest", "1"), ("afi", "0"), ("afi", "1")]

    assert "<html" in (tmp_path / "out" / "report.html").read_text()

    table, measured = tmp_path / "out" / "comparison.json", []
    module = import_module("afictl.comparison.cost.cost_list")
    monkeypatch.setattr(module, "measure_costs", lambda *words: measured.append(1) or measure_costs(*words))
    again = compare(fabric, preset, shapes_dir, methods, tmp_path / "out", seeds=(0, 1))
    assert ([method.cost for method in again.comparison.methods], measured) == ([nearest.cost, afi.cost], [])
    assert json.loads(table.read_text()) == written
    written["price_basis"]["versions"]["torch"] = "another"
    table.write_text(json.dumps(written))
    compare(fabric, preset, shapes_dir, methods, tmp_path / "out", seeds=(0, 1))
    assert measured == [1]

    fewer = compare(fabric, preset, shapes_dir, methods, tmp_path / "out", seeds=(1,), baseline="afi")
    assert [method.name for method in fewer.comparison.methods] == ["afi", "nearest"]
    assert measured == [1, 1]  # of seed 1: other detectors
    assert fewer.comparison.methods[1].verdict.startswith("nearest: nothing can be claimed from one seed")


def test_an_unknown_baseline_is_refused_before_anything_is_trained(fabric, preset, methods, shapes_dir, tmp_path):
    with pytest.raises(UserError, match="--baseline"):
        compare(fabric, preset, shapes_dir, methods, tmp_path / "out", baseline="fade")
    assert not (tmp_path / "out").exists()


def test_what_killed_draftes_left_is_removed(shapes_dir, tmp_path):
    found = make_comparison(shapes_dir, tmp_path / "runs", seeds=1)
    draft = killed_draft(tmp_path / "out" / "report.html")
    draft.parent.mkdir()
    draft.touch()
    write_comparison_folder(found, draft.parent)
    assert not draft.exists()
    assert (draft.parent / "report.html").is_file()
