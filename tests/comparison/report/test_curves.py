"""Training curves: what is read of a run, and means over seeds."""

import json

import numpy as np
import pytest

from afictl.comparison.report.curves import curve_plots, mean_curve
from tests.helpers.comparisons import make_comparison


def test_few_points_are_averaged_step_by_step():
    curves = [[(10.0, 1.0), (20.0, 3.0)], [(10.0, 2.0), (20.0, 5.0)]]
    assert mean_curve(curves) == [(10.0, 1.5), (20.0, 4.0)]


def test_many_points_become_sections_of_equal_length():
    steps = np.arange(1.0, 9001.0)
    values = np.sin(steps / 900)
    curve = mean_curve([list(zip(steps, values, strict=True))])
    assert len(curve) <= 101
    at, means = np.array(curve).T
    assert np.abs(np.sin(at / 900) - means).max() < 0.01
    assert means[50] == pytest.approx(values[(steps // 90) == 50].mean())


def test_a_broken_record_is_left_out_and_the_rest_drawn(shapes_dir, tmp_path):
    comparison = make_comparison(shapes_dir, tmp_path, seeds=1, masks=False)
    file = comparison.methods[1].runs[0].folder / "metrics.jsonl"
    strange = [json.dumps({"step": 30, "loss_a": float("nan"), "lr": 1}), "[]", json.dumps({"loss_a": 1, "lr": 1})]
    file.write_text("\n".join([*strange, file.read_text()]) + '{"step": 900, "loss_a"')
    (comparison.methods[2].runs[0].folder / "metrics.jsonl").unlink()
    plots = dict(curve_plots(comparison))
    assert list(plots) == ["Training loss", "Held-out box AP"]
    for drawings in plots.values():
        for drawing in drawings.values():
            assert [line.name for line in drawing.lines] == ["nearest", "bilinear"]
            assert all("nan" not in line.mean for line in drawing.lines)
            assert all(line.seeds == () for line in drawing.lines)
