from dataclasses import replace

import pytest
from rich.console import Console

from afictl.comparison import Comparison, comparison_notes, comparison_tables
from afictl.comparison.analysis.screen_tables import TWO_SEEDS_NOTE
from afictl.comparison.results import ComparisonRun, Cost, Difference, MethodResult


def method(name, aps, price, **further):
    cells = tuple(ComparisonRun(seed, name, {"box/AP": ap}, [], 120.0) for seed, ap in enumerate(aps))
    mean = {"box/AP": sum(aps) / len(aps), "box/AP50": 50.0, "box/APl": None}
    deviation = {"box/AP": 0.51, "box/AP50": None, "box/APl": None}
    return MethodResult(name, name, cells, price, mean, deviation, **further)


def comparison(**settings):
    price = Cost((480, 640), 2_000_000, 500_000, 3_000_000_000, 1_000_000_000, 12.34, 1.2, 5 * 2**20, 2**19)
    difference = {"box/AP": Difference(1.22, 0.53, 1.91, 2, True)}
    methods = (
        method("nearest", [30.0, 30.08], price),
        method("afi", [31.26, 31.26], price, difference=difference, verdict="afi is good"),
    )
    return Comparison("preset", "val.json", "val", "nearest", settings, methods)


def shown(found, width=100):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(*comparison_tables(found))
    return console.export_text()


def test_tables_show_what_is_known():
    text = shown(comparison())
    for piece in ("31.3 (0.5)", "30.0 (0.5)", "+1.2 (0.5 to 1.9)*", "640x480"):
        assert piece in text
    for piece in ("2.00", "3.00", "12.3", "5.0", "0.50", "1.00", "1.2", "0.5"):
        assert piece in text
    assert "APl" not in text  # unknown for every method


def test_names_stay_whole_on_a_narrow_terminal():
    found = comparison()
    odd = replace(found.methods[1], name="afi-[red]of-the-longer-run")
    text = shown(replace(found, methods=(found.methods[0], odd)), width=60)
    assert text.count(odd.name) == 4  # in every table


def test_nothing_is_cut_off_in_80_columns():
    assert "\u2026" not in shown(comparison(), width=80)


def test_notes_tell_verdicts_and_how_they_were_reached():
    lines = comparison_notes(comparison(schedule="same"))
    assert lines[0] == "afi is good"
    assert lines[1].startswith("Intervals: 95 %")
    assert "Holm" not in lines[1]  # one method is compared


@pytest.mark.parametrize(("seeds", "warned"), [(2, True), (3, False)])
def test_two_seeds_are_warned_about(seeds, warned):
    found = comparison()
    judged = replace(found.methods[1], difference={"box/AP": Difference(1.5, 1.3, 1.7, seeds, True)})
    assert (TWO_SEEDS_NOTE in comparison_notes(replace(found, methods=(found.methods[0], judged)))) == warned


def test_differing_settings_are_listed_first():
    lines = comparison_notes(comparison(**{"schedule": "same", "NOT THE SAME, weights": "a: b"}))

    assert lines[0] == "NOT THE SAME, weights: a: b"
