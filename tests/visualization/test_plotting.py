"""Literal names in fonts that have their characters, and line styles of many runs."""

import warnings

import matplotlib
import pytest
from matplotlib.figure import Figure

from afictl.visualization.plotting import line_styles, literal_names, save_figure


def save_titled(name, path):
    with literal_names([name]):
        figure = Figure(figsize=(2, 2))
        figure.subplots().set_title(name)
        save_figure(figure, path)
    return path


@pytest.mark.parametrize("installed", [True, False])
def test_a_name_outside_dejavu_is_drawn_without_a_warning(tmp_path, squares, install, installed, caplog):
    if installed:
        install(squares("红", weight=500))
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = save_titled("红 cell", tmp_path / "new" / "chart.svg").read_text()
        save_titled("红 cell", tmp_path / "chart.png")
    assert ("Squares" in svg) is installed
    assert "DejaVuSans" in svg
    assert not [record for record in caplog.records if record.name == "matplotlib.font_manager"]
    assert dict(matplotlib.rcParams) == before


def test_other_warnings_are_not_suppressed():
    with pytest.warns(UserWarning, match="something else"), literal_names([]):
        warnings.warn("something else", stacklevel=1)


def style_values(names):
    return [tuple(style.values()) for _, style in line_styles(dict.fromkeys(names))]


@pytest.mark.parametrize("count", [11, 36])
def test_line_styles_of_many_runs_differ(count):
    assert len(set(style_values(f"run {k}" for k in range(count)))) == count


def test_seeds_of_a_method_share_colour_and_marker_and_differ_in_dashes():
    names = [f"method {k}/seed{seed}" for k in range(12) for seed in range(6)]
    styles = dict(line_styles(dict.fromkeys(names)))
    assert len(set(style_values(names))) == len(names)
    for k in range(12):
        method_styles = {
            (styles[f"method {k}/seed{s}"]["color"], styles[f"method {k}/seed{s}"]["marker"]) for s in range(6)
        }
        assert len(method_styles) == 1
    assert len(set(style_values(f"one/seed{k}" for k in range(40)))) == 40
