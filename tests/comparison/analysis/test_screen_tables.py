from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from afictl.comparison import Comparison, comparison_notes, comparison_tables
from afictl.comparison.analysis.screen_tables import TWO_SEEDS_NOTE
from afictl.comparison.analysis.spread_columns import SPREAD_NOTE
from afictl.comparison.results import ComparisonRun, Cost, Difference, MethodResult


def method(name, aps, **fields):
    cost = Cost((480, 640), 2_000_000, 500_000, 3_000_000_000, 1_000_000_000, 12.34, 1.2, 5 * 2**20, 2**19)
    runs = tuple(ComparisonRun(seed, Path(name), {"box/AP": ap}, [], 120.0) for seed, ap in enumerate(aps))
    mean = {"box/AP": sum(aps) / len(aps), "box/AP50": 50.0, "box/APl": None}
    deviation = {"box/AP": 0.51, "box/AP50": None, "box/APl": None}
    return MethodResult(name, name, runs, cost, mean, deviation, origin="trained: some.safetensors", **fields)


def make_comparison(settings=None, seeds=2, name="afi"):
    difference = {"box/AP": Difference(1.22, 0.53, 1.91, seeds, True, 0.31)}
    afi = method(name, [31.26, 31.26], difference=difference, verdict="afi is good")
    methods = (method("nearest", [30.0, 30.08]), afi)
    return Comparison("preset", None, "nearest", settings or {}, methods)


def render(comparison, width=100):
    console = Console(width=width, record=True, file=StringIO())
    console.print(*comparison_tables(comparison))
    return console.export_text()


def test_tables_contain_accuracy_difference_and_costs():
    text = render(make_comparison())
    assert text.count("trained: some.safetensors") == 2
    for part in ("31.3 (0.5)", "30.0 (0.5)", "+1.2 (0.5 to 1.9)*", "640x480"):
        assert part in text
    for part in ("2.00", "3.00", "12.3", "5.0", "0.50", "1.00", "1.2", "0.5"):
        assert part in text
    assert "APl" not in text  # None for every method


def test_the_spread_table_has_seeds_deviations_half_width_and_power():
    text = render(make_comparison())
    table = text[text.index("spread of box AP") : text.index("cost of")]
    rows = [[word for word in line.split() if word != "│"] for line in table.splitlines()]
    assert ["nearest", "2", "0.51", "-", "-", "-", "-"] in rows
    assert ["afi", "2", "0.51", "0.31", "0.69", "6", "3"] in rows
    assert SPREAD_NOTE in comparison_notes(make_comparison())


def test_one_seed_has_no_spread():
    difference = {"box/AP": Difference(1.22, None, None, 1, False)}
    comparison = make_comparison()
    methods = (comparison.methods[0], replace(comparison.methods[1], difference=difference))
    comparison = replace(comparison, methods=methods)
    assert "spread" not in render(comparison)
    assert SPREAD_NOTE not in comparison_notes(comparison)


def test_names_are_complete_on_a_narrow_terminal():
    name = "afi-[red]of-the-longer-run"
    assert render(make_comparison(name=name), width=60).count(name) == 6  # in every table


def test_nothing_is_cut_off_in_80_columns():
    assert "\N{HORIZONTAL ELLIPSIS}" not in render(make_comparison(), width=80)


def test_notes_are_the_verdicts_and_the_test_of_significance():
    verdict, significance, *_ = comparison_notes(make_comparison({"schedule": "same"}))
    assert verdict == "afi is good"
    assert significance.startswith("Intervals: 95 %")
    assert "Holm" not in significance  # only one method is tested


@pytest.mark.parametrize("seeds", [2, 3])
def test_two_seeds_give_a_note(seeds):
    assert (TWO_SEEDS_NOTE in comparison_notes(make_comparison(seeds=seeds))) == (seeds == 2)


def test_unequal_settings_are_listed_first():
    notes = comparison_notes(make_comparison({"schedule": "same", "NOT THE SAME, weights": "a: b"}))
    assert notes[0] == "NOT THE SAME, weights: a: b"


def test_a_single_method_is_compared_with_nothing():
    comparison = make_comparison()
    note, *_ = comparison_notes(replace(comparison, methods=comparison.methods[:1]))
    assert note.startswith("nearest is the only method: ")


@pytest.mark.parametrize(("scatter", "basis"), [(0.05, {}), (0.3, {}), (0.3, {"device": "cpu"})])
def test_times_of_a_busy_machine_have_a_note(scatter, basis):
    """It tells how to measure again, where costs are stored."""
    comparison = make_comparison()
    first = replace(comparison.methods[0], cost=replace(comparison.methods[0].cost, scatter=scatter))
    comparison = replace(comparison, methods=(first, comparison.methods[1]), cost_basis=basis)
    notes = [note for note in comparison_notes(comparison) if "busy machine" in note]
    assert len(notes) == (scatter > 0.1)
    assert all("30%" in note and ("remove comparison.json" in note) == bool(basis) for note in notes)
