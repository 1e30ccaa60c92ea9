"""Curves of recorded runs: what is plotted, under which names, and what is no run."""

import json

import numpy as np
import pytest
from PIL import Image

from afictl.errors import UserError
from afictl.visualization import plot_training
from afictl.visualization.curves import plot_feature_distance, read_metrics, training_panels
from tests.visualization.drawn import drawn_texts


def run(folder, steps=20, offset=0.0, last=""):
    folder.mkdir(parents=True)
    records = [
        {"step": k, "loss_mask": 1 / (k + 1) + offset, "loss_box_reg": 2 / (k + 1), "lr": 0.1, "memory_gib": 1.0}
        for k in range(1, steps)
    ]
    records.append({"step": steps, "box/AP": 30.0 + offset, "mask/AP": None})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n" + last)
    return folder


@pytest.mark.parametrize("count", [1, 2, 11])
def test_titles_and_names_are_in_the_picture(tmp_path, count):
    runs = {f"run {k}": run(tmp_path / str(k), offset=float(k)) for k in range(count)}
    plot_training(runs, tmp_path / "out" / "curves.svg")
    text = (tmp_path / "out" / "curves.svg").read_text()
    for title in ("Box AP, held out", "Sum of losses", "Mask loss", "Box regression loss", "Learning rate", *runs):
        assert f"<!-- {title} -->" in text
    assert "Memory" not in text
    plot_training(runs, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 2000


def test_eleven_runs_are_told_apart(tmp_path):
    from afictl.visualization.curves import _styled

    styles = {tuple(sorted(style.items())) for _, style in _styled({str(k): None for k in range(11)})}
    assert len(styles) == 11


def test_a_line_goes_through_the_recorded_values(tmp_path):
    from afictl.visualization.curves import _curves, _values

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


def test_names_that_matplotlib_would_take_for_something_else(tmp_path):
    runs = {"$\\foo{1}$": run(tmp_path / "a"), "_hidden": run(tmp_path / "b"), "<red> 红": run(tmp_path / "c")}
    assert set(runs) <= set(drawn_texts(lambda path: plot_training(runs, path), tmp_path))
    assert training_panels(runs).panels[-1].note == ", ".join(runs)
    distance = {name: {"$p_2$": {"l1": 0.5, "cosine": 0.5}} for name in runs}
    assert {*runs, "$p_2$"} <= set(drawn_texts(lambda path: plot_feature_distance(distance, path), tmp_path))


def test_panels_for_a_page_say_in_words_what_came_out(tmp_path):
    figure = training_panels({"a": run(tmp_path / "a"), "b": run(tmp_path / "b", offset=5.0)})
    assert figure.text == "a: 20 steps, box AP 30. b: 20 steps, box AP 35."
    assert [panel.title for panel in figure.panels][-1] == "Runs"
    assert len({panel.picture.size for panel in figure.panels}) == 1


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path):
    assert len(read_metrics(run(tmp_path / "run", last='{"step": 21, "lo'))) == 20


def test_what_is_no_run(tmp_path):
    run(tmp_path / "grid" / "nearest")
    (tmp_path / "grid" / "nearest" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"holds no metrics.jsonl, so it is no run; there are runs in it: .*nearest"):
        read_metrics(tmp_path / "grid")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="nothing was recorded yet"):
        read_metrics(tmp_path / "empty")
