from pathlib import Path

import pytest

from afictl import UserError
from afictl.comparison.analysis.summary import choose_baseline, summarize_methods
from afictl.comparison.results import ComparisonRun, MethodResult


def measured(name, values, seeds=None):
    seeds = range(len(values)) if seeds is None else seeds
    runs = [
        ComparisonRun(seed, Path(name), {"box/AP": value, "box/APl": None}, [], 1.0)
        for seed, value in zip(seeds, values, strict=True)
    ]
    return MethodResult(name, name, tuple(runs), None)


def test_means_deviations_and_paired_differences():
    methods = [measured("afi", [31.0, 33.5, 34.0]), measured("nearest", [30.0, 32.0, 33.0])]
    nearest, afi = summarize_methods(methods, "nearest")
    assert (nearest.name, afi.name) == ("nearest", "afi")
    assert afi.mean["box/AP"] == pytest.approx(32.8333, abs=1e-4)
    assert afi.deviation["box/AP"] == pytest.approx(1.6073, abs=1e-4)
    assert afi.mean["box/APl"] is None
    assert nearest.difference == {}
    assert nearest.verdict == ""
    difference = afi.difference["box/AP"]
    assert difference.mean == pytest.approx(3.5 / 3)
    assert difference.low == pytest.approx(3.5 / 3 - 4.30265 * 0.288675 / 3**0.5, abs=1e-4)
    assert difference.seeds == 3
    assert difference.claimed
    assert "box/APl" not in afi.difference


def test_runs_are_paired_by_seed_not_by_position():
    methods = [measured("nearest", [30.0, 40.0, 50.0]), measured("afi", [51.0, 41.5], seeds=(2, 1))]
    difference = summarize_methods(methods, "nearest")[1].difference["box/AP"]
    assert (difference.mean, difference.seeds) == (1.25, 2)


NEAREST = measured("nearest", [30.0] * 3)
AFI, CARAFE = (measured(name, [31.0, 31.5, 32.0]) for name in ("afi", "carafe"))


def test_a_claim_must_be_significant_among_all_methods():
    """p is 0.035 for each method: significant alone, but not for two by Holm's rule."""
    (_, single) = summarize_methods([NEAREST, AFI], "nearest")
    assert single.difference["box/AP"].claimed
    (_, *both) = summarize_methods([NEAREST, AFI, CARAFE], "nearest")
    for method in both:
        assert method.difference["box/AP"].low == single.difference["box/AP"].low > 0
        assert not method.difference["box/AP"].claimed
        assert "among 2 methods" in method.verdict


def test_a_method_of_one_seed_is_not_counted_among_the_tested_methods():
    methods = summarize_methods([NEAREST, AFI, CARAFE, measured("fade", [30.9])], "nearest")
    assert "among 2 methods" in methods[1].verdict
    assert "one seed" in methods[3].verdict


def test_without_a_common_seed_there_is_no_difference():
    methods = [measured("nearest", [30.0], seeds=(0,)), measured("afi", [35.0], seeds=(1,))]
    _, afi = summarize_methods(methods, "nearest")
    assert afi.difference == {}
    assert "no seed" in afi.verdict


@pytest.mark.parametrize(
    ("names", "requested", "expected"),
    [(["afi", "nearest"], None, "nearest"), (["afi", "fade"], None, "afi"), (["afi", "nearest"], "afi", "afi")],
)
def test_the_baseline_is_the_requested_method_or_nearest_or_the_first(names, requested, expected):
    assert choose_baseline(names, requested) == expected


def test_an_unknown_baseline_is_rejected():
    with pytest.raises(UserError, match=r"--baseline: .*'nearst'.*'nearest'"):
        choose_baseline(["nearest", "afi"], "nearst")
