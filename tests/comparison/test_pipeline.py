import csv
import json

import pytest

from afictl import UserError
from afictl.comparison import compare
from afictl.comparison.cost import cost_list
from afictl.comparison.pipeline import write_comparison_folder
from tests.helpers.comparisons import make_comparison
from tests.helpers.full_disk import killed_draft


def read_rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_comparison_has_accuracy_costs_and_files(fabric, preset, methods, shapes_dir, tmp_path, monkeypatch):
    output = tmp_path / "out"
    outcome = compare(fabric, preset, shapes_dir, methods, output, seeds=(0, 1))
    assert outcome.failures == {}
    comparison = outcome.comparison
    nearest, afi = comparison.methods
    assert (nearest.name, afi.name, comparison.baseline) == ("nearest", "afi", "nearest")
    assert [run.seed for run in afi.runs] == [0, 1]
    for method in comparison.methods:
        values = [run.metrics["box/AP"] for run in method.runs]
        assert method.mean["box/AP"] == pytest.approx(sum(values) / 2)
        assert method.cost.milliseconds > method.cost.interpolator_milliseconds > 0
    assert afi.difference["box/AP"].seeds == 2
    assert comparison.annotation_file == shapes_dir / "annotations" / "instances_val2017.json"
    assert comparison.settings["schedule"] == "2 steps of 2 images, adamw, lr 0.001, cosine"

    content = json.loads((output / "comparison.json").read_text())
    assert [method["name"] for method in content["methods"]] == ["nearest", "afi"]
    rows = read_rows(output / "comparison.csv")
    assert [row["interpolator"] for row in rows] == ["nearest", "afi"]
    assert float(rows[1]["interpolator_parameters"]) == afi.cost.interpolator_parameters
    assert float(rows[1]["box/AP difference mean"]) == pytest.approx(afi.difference["box/AP"].mean)
    assert rows[1]["box/AP difference seeds"] == "2"
    runs = [(row["interpolator"], row["seed"]) for row in read_rows(output / "runs.csv")]
    assert runs == [("nearest", "0"), ("nearest", "1"), ("afi", "0"), ("afi", "1")]
    assert "<html" in (output / "report.html").read_text()

    # costs are measured again for other software or other detectors only
    config = output / "afi" / "seed1" / "config.yaml"
    config.write_text(config.read_text().replace("processes: 1", "processes: 2"))
    calls, measure_costs = [], cost_list.measure_costs
    monkeypatch.setattr(cost_list, "measure_costs", lambda *args: calls.append(1) or measure_costs(*args))
    repeated = compare(fabric, preset, shapes_dir, methods, output, seeds=(0, 1)).comparison
    assert ([method.cost for method in repeated.methods], calls) == ([nearest.cost, afi.cost], [])
    assert repeated.settings["NOT THE SAME, hardware.processes"].endswith("2: afi seed 1")
    assert "hardware.processes" in repeated.methods[1].verdict
    config.write_text(config.read_text().replace("processes: 2", "processes: 1"))
    compare(fabric, preset, shapes_dir, methods, output, seeds=(0, 1))
    assert json.loads((output / "comparison.json").read_text()) == content
    content["price_basis"]["versions"]["torch"] = "another"
    (output / "comparison.json").write_text(json.dumps(content))
    compare(fabric, preset, shapes_dir, methods, output, seeds=(0, 1))
    assert calls == [1]
    fewer = compare(fabric, preset, shapes_dir, methods, output, seeds=(1,), baseline="afi").comparison
    assert calls == [1, 1]
    assert [method.name for method in fewer.methods] == ["afi", "nearest"]
    assert "one seed" in fewer.methods[1].verdict


def test_an_unknown_baseline_is_rejected_before_anything_is_trained(fabric, preset, methods, shapes_dir, tmp_path):
    with pytest.raises(UserError, match="--baseline"):
        compare(fabric, preset, shapes_dir, methods, tmp_path / "out", baseline="fade")
    assert not (tmp_path / "out").exists()


def test_temporary_files_of_killed_processes_are_removed(shapes_dir, tmp_path):
    comparison = make_comparison(shapes_dir, tmp_path / "runs", seeds=1)
    draft = killed_draft(tmp_path / "out" / "report.html")
    draft.parent.mkdir()
    draft.touch()
    write_comparison_folder(comparison, draft.parent)
    assert not draft.exists()
    assert (draft.parent / "report.html").is_file()
