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
def test_contenders(text, expected):
    assert [(c.name, c.source) for c in parse_methods(text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [("nearst", "no kind"), ("afi,afi", "twice"), ("", "at least one"), ("../up=runs/a", "folder name")],
)
def test_unusable_methods(text, message):
    with pytest.raises(UserError, match=message):
        parse_methods(text)


def test_a_grid_goes_seed_by_seed_so_that_a_stopped_one_has_whole_seeds(preset):
    methods = (Method("nearest", "nearest"), Method("mine", "runs/a"))
    jobs = ExperimentSettings(preset, Path("data"), Path("out"), methods, (3, 4)).jobs()
    assert [str(job) for job in jobs] == ["nearest seed 3", "mine seed 3", "nearest seed 4", "mine seed 4"]
    assert jobs[1].folder == Path("out/mine/seed3")
    assert jobs[1].start.interpolator == "runs/a"
