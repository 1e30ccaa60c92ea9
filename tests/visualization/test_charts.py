"""Charts draw names in fonts that have them, keep quiet where none has, and leave matplotlib as it was."""

import warnings

import matplotlib
import pytest
from matplotlib.figure import Figure

from afictl.visualization.charts import names_as_written, save


def titled(name, path):
    with names_as_written([name]):
        figure = Figure(figsize=(2, 2))
        figure.subplots().set_title(name)
        save(figure, path)
    return path


@pytest.mark.parametrize("installed", [True, False])
def test_a_name_beyond_the_plain_font(tmp_path, squares, install, installed, caplog):
    if installed:
        install(squares("红", weight=500))
    before = dict(matplotlib.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = titled("红 cell", tmp_path / "new" / "chart.svg").read_text()
        titled("红 cell", tmp_path / "chart.png")
    assert ("Squares" in svg) is installed
    assert "DejaVuSans" in svg
    assert not [record for record in caplog.records if record.name == "matplotlib.font_manager"]
    assert dict(matplotlib.rcParams) == before


def test_other_warnings_are_not_swallowed():
    with pytest.warns(UserWarning, match="something else"), names_as_written([]):
        warnings.warn("something else", stacklevel=1)
