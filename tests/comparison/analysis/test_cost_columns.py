"""A new cost is one entry of ``COST_COLUMNS``."""

import csv
import io
import json

import pytest
from rich.console import Console

from afictl.comparison import comparison_tables
from afictl.comparison.analysis import comparison_files, screen_tables
from afictl.comparison.analysis.cost_columns import COST_COLUMNS, CostColumn
from tests.helpers.comparisons import make_comparison


@pytest.fixture
def comparison(shapes_dir, tmp_path):
    return make_comparison(shapes_dir, tmp_path / "runs", seeds=1, masks=False)


def test_an_added_column_is_in_every_table_and_file(comparison, tmp_path, monkeypatch):
    throughput = CostColumn("fps", "Throughput", "images/s", ".1f", lambda method: 1000 / method.cost.milliseconds)
    for module in (comparison_files, screen_tables):
        monkeypatch.setattr(module, "COST_COLUMNS", (*COST_COLUMNS, throughput))
    value = 1000 / comparison.methods[2].cost.milliseconds
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(*comparison_tables(comparison))
    assert f"{value:.1f}" in console.export_text()
    comparison_files.write_comparison_tables(comparison, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["methods"][2]["price"]["fps"] == value
    with (tmp_path / "comparison.csv").open() as file:
        assert float(list(csv.DictReader(file))[2]["fps"]) == value


def test_numbers_are_displayed_in_their_unit(comparison):
    texts = {column.key: column.text(column.getter(comparison.methods[0])) for column in COST_COLUMNS}
    assert texts == {
        "parameters": "13.20",
        "multiply_adds": "18.40",
        "milliseconds": "61.0",
        "peak_bytes": "310.0",
        "training_seconds": "14.0",
    }
    assert COST_COLUMNS[0].text(None) == "-"
