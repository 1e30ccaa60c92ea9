from pathlib import Path

import pytest

from afictl import UserError
from afictl.comparison import Method, parse_methods
from afictl.comparison.experiment.specification import ExperimentSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nearest,afi", [("nearest", "nearest"), ("afi", "afi")]),
        ("nearest, mine=runs/a", [("nearest", "nearest"), ("mine", "runs/a")]),
        ("a=runs/a,b=runs/b", [("a", "runs/a"), ("b", "runs/b")]),
    ],
)
def test_methods_are_kinds_or_names_with_a_source(text, expected):
    assert [(method.name, method.source) for method in parse_methods(text)] == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [("nearst", "'nearst'"), ("afi,afi", "'afi' is given twice"), ("", "at least one"), ("../up=runs/a", "'../up'")],
)
def test_unusable_methods_are_rejected(text, part):
    with pytest.raises(UserError) as error:
        parse_methods(text)
    assert part in str(error.value)


def test_runs_are_ordered_by_seed(preset):
    """So that an interrupted experiment has complete seeds to compare."""
    methods = (Method("nearest", "nearest"), Method("mine", "runs/a"))
    runs = ExperimentSettings(preset, Path("data"), Path("out"), methods, (3, 4)).runs()
    assert [str(run) for run in runs] == ["nearest seed 3", "mine seed 3", "nearest seed 4", "mine seed 4"]
    assert runs[1].folder == Path("out/mine/seed3")
    assert runs[1].initial_weights.interpolator == "runs/a"
