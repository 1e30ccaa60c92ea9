from pathlib import Path

import pytest

from afictl import UserError
from afictl.comparison import Method, parse_methods
from afictl.comparison.experiment.specification import ExperimentSettings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nearest,afi", [("nearest", "nearest"), ("afi", "afi")]),
        ("nearest, trained=runs/a", [("nearest", "nearest"), ("trained", "runs/a")]),
        ("a=runs/a,b=runs/b", [("a", "runs/a"), ("b", "runs/b")]),
    ],
)
def test_methods_are_kinds_or_names_with_a_source(text, expected):
    assert [(method.name, method.source) for method in parse_methods(text)] == expected


@pytest.mark.parametrize(
    ("text", "facts"),
    [("nearst", "'nearst'"), ("afi,afi", r"'afi' .*twice"), ("", "at least one"), ("../up=runs/a", r"'\.\./up'")],
)
def test_unusable_methods_are_rejected(text, facts):
    with pytest.raises(UserError, match=facts):
        parse_methods(text)


def test_runs_are_ordered_by_seed(preset):
    """So that an interrupted experiment has complete seeds to compare."""
    methods = (Method("nearest", "nearest"), Method("trained", "runs/a"))
    runs = ExperimentSettings(preset, Path("data"), Path("out"), methods, (3, 4)).runs()
    assert [str(run) for run in runs] == ["nearest seed 3", "trained seed 3", "nearest seed 4", "trained seed 4"]
    assert runs[1].folder == Path("out/trained/seed3")
    assert runs[1].initial_weights.interpolator == "runs/a"
