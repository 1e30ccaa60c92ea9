"""The speed table on the smallest workloads: equal results of the alternatives, and the numbers of every row."""

import json
import re

import pytest
import torch

from afictl.errors import UserError
from benchmarks.speed import growth
from benchmarks.speed.__main__ import main
from benchmarks.speed.machine import Machine, Roof, measure_machine
from benchmarks.speed.rows import measure_alternatives, speed_table

MACHINE = Machine(torch.device("cpu"), {"fp32": Roof(100.0, "")}, {"bf16": "no bf16"}, short=True)


@pytest.fixture
def measure(tmp_path, capsys):
    """A function that measures a part and gives its rows by workload, precision and name."""

    def run(part):
        main([part, "--short", "--device", "cpu", "--json", str(tmp_path / "speed.json")])
        results = json.loads((tmp_path / "speed.json").read_text())
        assert results["machine"]["roofs"]["fp32"]["gflops"] > 0
        assert all(row["workload"] in capsys.readouterr().out for row in results["rows"][:1])
        return {(row["workload"], row["precision"], row["name"]): row for row in results["rows"]}

    return run


def number(note, pattern):
    return float(re.search(pattern, note)[1])


def assert_measured(row):
    assert row["milliseconds"] >= row["minimum"] > 0
    assert row["gigaflops"] > 0
    assert 0 < row["roof_share"] < 2
    assert row["peak_megabytes"] > 0
    assert row["speedup"] == 1 or row["baseline"] != row["name"]


def test_interpolator_has_the_results_and_the_operations_of_its_plain_form(measure):
    rows = measure("interpolator")
    for workload in ("16x5x7 forward", "16x5x7 forward and backward"):
        plain, afictl = (rows[workload, "fp32", name] for name in ("plain", "afictl"))
        for row in (plain, afictl):
            assert_measured(row)
        assert afictl["gigaflops"] == pytest.approx(plain["gigaflops"], rel=0.1)
        assert number(afictl["note"], r"error ([^,]+)") < 1e-5
        assert "backward" not in workload or number(afictl["note"], "gradients (.+)") < 1e-4
        measured = [row for (name, precision, _), row in rows.items() if (name, precision) == (workload, "bf16")]
        assert len(measured) == 2 or "bf16" in measured[0]["note"]


def test_steps_of_stage1_have_equal_losses(measure):
    rows = measure("stage1")
    for name in ("plain", "afictl"):
        assert_measured(rows["step, 2 images of 64x64", "fp32", name])
    note = rows["step, 2 images of 64x64", "fp32", "afictl"]["note"]
    assert number(note, r"at most (\S+) %") < 0.01


@pytest.mark.slow
def test_detectors_have_the_same_number_of_detections(measure):
    rows = measure("detectors")
    for (workload, _, name), row in rows.items():
        if name:
            assert_measured(row)
            assert row["baseline"] == ("afictl" if name == "afictl, afi-lite" else "torchvision")
            assert "5 detections" in row["note"] or "inference" not in workload
        else:
            assert row["note"] == "detectron2 is not installed"


@pytest.mark.detectron2
def test_detectron2_has_the_detections_of_afictl(measure):
    pytest.importorskip("detectron2")
    assert measure("detectors")["inference, 64x96", "fp32", "detectron2"]["note"] == "5 detections, 5 as afictl"


def test_commands_are_timed(measure):
    rows = measure("startup")
    assert len(rows) == 4
    assert all(row["milliseconds"] > 1 for row in rows.values())


def test_growth_has_curves_and_a_plot(tmp_path, capsys):
    main(["growth", "--short", "--device", "cpu", "--json", str(tmp_path / "speed.json")])
    assert (tmp_path / "speed-growth.png").stat().st_size > 1000
    curves = json.loads((tmp_path / "speed.json").read_text())["growth"]
    assert [curve["sizes"] for curve in curves] == [[24, 96], [1, 2], [1, 2]]
    assert "exponent" in capsys.readouterr().out


def test_exponent_of_a_power_law():
    curve = growth.Curve("", "", "s", (1, 2, 4), tuple(3 * size**1.5 for size in (1, 2, 4)))
    assert curve.fit == pytest.approx((1.5, 3))


@pytest.mark.slow
def test_images_per_second_of_several_devices(shapes_dir, tmp_path):
    curve = growth.devices_curve(shapes_dir, tmp_path, (1, 2), growth._SHORT_SETTINGS, 4)
    assert curve.unit == "images/s"
    assert min(curve.values) > 0


def test_alternatives_take_turns_and_are_compared_with_their_baseline():
    calls = []
    maps = torch.ones(1, 3, 8, 8)
    weight = torch.ones(2, 3, 3, 3)

    def run(name, times):
        calls.append(name)
        for _ in range(times):
            torch.nn.functional.conv2d(maps, weight)
        return name

    runs = {name: lambda name=name, times=times: run(name, times) for name, times in (("a", 1), ("b", 2), ("c", 4))}
    machine = Machine(MACHINE.device, MACHINE.roofs, MACHINE.missing)
    rows = measure_alternatives("part", "load", "fp32", runs, machine, 0, lambda results: results, {"c": "b"})
    assert calls == ["a", "b", "c", "a", "b", "c", "c", "b", "a"]
    assert [(row.name, row.baseline, row.note) for row in rows] == [("a", "a", "a"), ("b", "a", "b"), ("c", "b", "c")]
    assert [row.gigaflops * 1e9 for row in rows] == [times * 2 * 2 * 3 * 9 * 36 for times in (1, 2, 4)]
    assert [str(column.header) for column in speed_table(rows).columns][:4] == ["workload", "precision", "by", "ms"]


def test_roof_of_this_machine():
    machine = measure_machine(torch.device("cpu"), short=True)
    assert machine.roofs["fp32"].gflops > 0.1
    assert ("bf16" in machine.roofs) != ("bf16" in machine.missing)
    assert machine.share("fp32", 2 * 10**9, 1.0) == pytest.approx(2 / machine.roofs["fp32"].gflops)


@pytest.mark.parametrize(
    ("arguments", "value"), [(["no-part"], "no-part"), (["--threads", "0"], "got 0"), (["--device", "cuda"], "cuda")]
)
def test_mistakes_are_named(arguments, value, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=value):
        main(arguments)
