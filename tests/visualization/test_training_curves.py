"""Curves of recorded runs: values and names."""

import json

import numpy as np
import pytest
from PIL import Image

from afictl.run_records import read_metrics
from afictl.visualization import plot_training
from afictl.visualization.training_curves import (
    _curves,
    _legend_figure,
    _plot,
    _render,
    _subplots,
    _values,
    plot_feature_distance,
    training_panels,
)
from tests.helpers.images import drawn_texts


def run(folder, steps=20, offset=0.0):
    folder.mkdir(parents=True)
    records = [
        {"step": k, "loss_mask": 1 / (k + 1) + offset, "loss_box_reg": 2 / (k + 1), "lr": 0.1, "memory_gib": 1.0}
        for k in range(1, steps)
    ]
    records.append({"step": steps, "box/AP": 30.0 + offset, "mask/AP": None})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return folder


@pytest.mark.parametrize("count", [1, 2, pytest.param(11, marks=pytest.mark.slow)])
def test_titles_and_run_names_are_drawn(tmp_path, count):
    runs = {f"run {k}": run(tmp_path / str(k), offset=float(k)) for k in range(count)}
    plot_training(runs, tmp_path / "out" / "curves.svg")
    text = (tmp_path / "out" / "curves.svg").read_text()
    for title in ("Box AP, held out", "Sum of losses", "Mask loss", "Box regression loss", "Learning rate", *runs):
        assert f"<!-- {title} -->" in text
    assert "Memory" not in text
    plot_training(runs, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 2000


def test_equal_lines_are_all_visible(tmp_path):
    records = {f"run {k}": read_metrics(run(tmp_path / str(k), offset=float(k))) for k in range(3)}
    widths = {}
    for curve in _curves(records):
        _, (axis,) = _subplots(1, 1)
        _plot(axis, curve, records)
        widths[curve.key] = [line.get_linewidth() for line in axis.lines]
    assert widths["lr"] == sorted(set(widths["lr"]), reverse=True)
    assert len(set(widths["loss_mask"])) == 1


def test_a_single_value_has_a_marker(tmp_path):
    records = {"run": read_metrics(run(tmp_path / "run", steps=2))}
    for curve in _curves(records):
        _, (axis,) = _subplots(1, 1)
        _plot(axis, curve, records)
        assert axis.lines[0].get_marker() == "o"


def test_repeated_line_styles_are_reported(tmp_path):
    one = run(tmp_path / "one")
    runs = {f"run {k}": one for k in range(38)}
    plot_training(runs, tmp_path / "many.svg")
    plot_training(dict(list(runs.items())[:36]), tmp_path / "some.svg")
    warning = training_panels(runs).panels[0].note
    assert " 4 of 38 " in warning
    assert f"<!-- {warning} -->" in (tmp_path / "many.svg").read_text()
    assert " of 36 " not in (tmp_path / "some.svg").read_text()


@pytest.mark.parametrize(
    ("values", "min_range"), [([50.6, 52.9], 2.3), ([40.0, 40.01], 1), ([0.0], 1), ([0.0, 30.0], 30)]
)
def test_accuracy_axis_has_a_minimum_range(values, min_range):
    records = {str(k): [{"step": 10, "box/AP": value}] for k, value in enumerate(values)}
    _, (axis,) = _subplots(1)
    _plot(axis, _curves(records)[0], records)
    low, high = axis.get_ylim()
    assert 0 <= low <= min(values)
    assert high > max(values)
    assert min_range <= high - low < 1.3 * min_range


@pytest.mark.parametrize(
    ("count", "length"),
    [(2, 5), (22, 20), pytest.param(60, 8, marks=pytest.mark.slow), pytest.param(9, 90, marks=pytest.mark.slow)],
)
def test_legends_fit_into_their_figures(tmp_path, monkeypatch, count, length):
    """In the picture, in the unused panel or below, and in the first panel of a page."""
    one = run(tmp_path / "one")
    runs = {f"{k:02}{'m' * (length - 2)}": one for k in range(count)}
    figures = []
    monkeypatch.setattr("afictl.visualization.training_curves.save_figure", lambda figure, path: figures.append(figure))
    plot_training(runs, tmp_path / "curves.png")
    for figure in (figures[0], _legend_figure(dict.fromkeys(runs))):
        _render(figure)
        ((legend),) = [*figure.legends, *filter(None, (axis.get_legend() for axis in figure.axes))]
        assert [text.get_text() for text in legend.get_texts()] == list(runs)
        (x0, y0), (x1, y1) = legend.get_window_extent().get_points()
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= figure.bbox.width
        assert y1 <= figure.bbox.height


def test_curves_have_the_logged_values(tmp_path):
    records = read_metrics(run(tmp_path / "run", steps=8))
    curves = {curve.key: curve for curve in _curves({"run": records})}
    assert _values(curves["box/AP"], records) == ([8], [30.0])
    steps, values = _values(curves["sum of losses"], records)
    assert steps == list(range(1, 8))
    np.testing.assert_allclose(values, [3 / (k + 1) for k in steps])
    many = [{"step": k, "loss_mask": float(k % 2), "lr": 1.0} for k in range(1000)]
    steps, values = _values(curves["loss_mask"], many)
    assert steps[-1] == 999
    np.testing.assert_allclose(values, 0.5)  # a mean over an even number of records


def test_names_are_drawn_literally(tmp_path):
    runs = {"$\\foo{1}$": run(tmp_path / "a"), "_hidden": run(tmp_path / "b"), "<red> 红": run(tmp_path / "c")}
    assert set(runs) <= set(drawn_texts(lambda path: plot_training(runs, path), tmp_path))
    assert all(f"{name}: " in training_panels(runs).text for name in runs)
    distance = {name: {"$p_2$": {"l1": 0.5, "cosine": 0.5}} for name in runs}
    assert {*runs, "$p_2$"} <= set(drawn_texts(lambda path: plot_feature_distance(distance, path), tmp_path))


def test_panels_of_a_page_have_a_summary(tmp_path):
    figure = training_panels({"a": run(tmp_path / "a"), "b": run(tmp_path / "b", offset=5.0)})
    assert figure.text == "a: 20 steps, box AP 30. b: 20 steps, box AP 35."
    assert [panel.title for panel in figure.panels][:2] == ["Runs", "Box AP, held out"]
    assert len({panel.picture.size for panel in figure.panels}) == 1


def test_runs_of_stage_1_show_the_distance_of_any_learned_interpolator(tmp_path):
    runs = {}
    for kind, value in (("afi", 0.25), ("carafe", 0.5)):
        runs[kind] = tmp_path / kind
        runs[kind].mkdir()
        record = {"step": 8, f"l1/{kind}": value, f"l1/{kind}/p2": 9.0, "l1/nearest": 3.0}
        (runs[kind] / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (curve,) = _curves({kind: read_metrics(folder) for kind, folder in runs.items()})
    assert [_values(curve, read_metrics(folder)) for folder in runs.values()] == [([8], [0.25]), ([8], [0.5])]
    assert "carafe: 8 steps, distance to the guide 0.5" in training_panels(runs).text
