"""A new cost or metric is one entry of its list, from which tables, files and plots take it."""

import csv
import io
import json
import re

import pytest
from rich.console import Console

from afictl.comparison import comparison_tables
from afictl.comparison.analysis import comparison_files, screen_tables
from afictl.comparison.analysis.cost_columns import COST_COLUMNS, CostColumn
from afictl.comparison.report import report_tables, scatter_plots, write_report
from afictl.evaluation import scoring
from afictl.evaluation.metrics import METRICS, POINTS, Metric, mean_precision
from tests.helpers.comparisons import make_comparison


@pytest.fixture
def write(tmp_path):
    """A function that returns screen text, ``comparison.json``, rows of ``comparison.csv`` and report."""

    def write_all(comparison):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(*comparison_tables(comparison))
        comparison_files.write_comparison_tables(comparison, tmp_path)
        write_report(comparison, tmp_path / "report.html")
        content = json.loads((tmp_path / "comparison.json").read_text())
        with (tmp_path / "comparison.csv").open() as file:
            rows = list(csv.DictReader(file))
        return console.export_text(), content, rows, (tmp_path / "report.html").read_text()

    return write_all


def test_an_added_cost_is_in_every_table_file_and_plot(shapes_dir, tmp_path, monkeypatch, write):
    throughput = CostColumn("fps", "Throughput", "images/s", ".3f", lambda method: 1000 / method.cost.milliseconds)
    for module in (comparison_files, screen_tables, report_tables, scatter_plots):
        monkeypatch.setattr(module, "COST_COLUMNS", (*COST_COLUMNS, throughput))
    comparison = make_comparison(shapes_dir, tmp_path / "runs", seeds=1, masks=False)
    value = 1000 / comparison.methods[2].cost.milliseconds
    screen, content, rows, report = write(comparison)
    assert f"{value:.3f}" in screen
    assert content["methods"][2]["price"]["fps"] == value
    assert float(rows[2]["fps"]) == value
    assert f'data-key="{value}">{value:.3f}</td>' in report
    assert re.search(r'name="cost" id="cost-\d"><span>Throughput</span>', report)
    assert ">Throughput, images/s</text>" in report


def test_an_added_metric_is_in_every_table_and_file(shapes_dir, tmp_path, monkeypatch, write):
    metric = Metric("AP90", "AP90", POINTS, ".3f", lambda precision: mean_precision(precision[8, ..., 0]))
    for module in (scoring, screen_tables, report_tables):
        monkeypatch.setattr(module, "METRICS", (*METRICS, metric))
    comparison = make_comparison(shapes_dir, tmp_path / "runs", seeds=1, masks=False)
    value = comparison.methods[2].mean["box/AP90"]
    screen, content, rows, report = write(comparison)
    assert f"{value:.3f}" in screen
    assert content["methods"][2]["mean"]["box/AP90"] == value
    assert float(rows[2]["box/AP90"]) == value
    assert f'data-key="{value}">{value:.3f}</td>' in report
