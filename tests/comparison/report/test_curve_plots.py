"""Training curves: metrics of a run, and means over seeds."""

import numpy as np
import pytest

from afictl.comparison.report.curve_plots import mean_curve, plot_curves
from tests.helpers.comparisons import make_comparison


def test_few_points_are_averaged_by_step():
    curves = [[(10.0, 1.0), (20.0, 3.0)], [(10.0, 2.0), (20.0, 5.0)]]
    assert mean_curve(curves) == [(10.0, 1.5), (20.0, 4.0)]


def test_many_points_are_averaged_in_sections():
    steps = np.arange(1.0, 9001.0)
    values = np.sin(steps / 900)
    curve = mean_curve([list(zip(steps, values, strict=True))])
    assert len(curve) <= 101
    steps_of_means, means = np.array(curve).T
    assert np.abs(np.sin(steps_of_means / 900) - means).max() < 0.01
    assert means[50] == pytest.approx(values[(steps // 90) == 50].mean())


def test_a_truncated_last_record_is_skipped(shapes_dir, tmp_path):
    comparison = make_comparison(shapes_dir, tmp_path, seeds=1, masks=False)
    file = comparison.methods[1].runs[0].folder / "metrics.jsonl"
    file.write_text(file.read_text() + '{"step": 900, "loss_a"')
    (comparison.methods[2].runs[0].folder / "metrics.jsonl").unlink()
    plots = dict(plot_curves(comparison))
    assert list(plots) == ["Training loss", "Held-out box AP"]
    for widths in plots.values():
        for plot in widths.values():
            assert [line.name for line in plot.lines] == ["nearest", "bilinear"]
            assert all("nan" not in line.mean for line in plot.lines)
            assert all(line.seeds == () for line in plot.lines)
