from pathlib import Path

import pytest

from afictl import UserError
from afictl.comparison.analysis.summary import MeasuredMethod, choose_baseline, summarize
from afictl.comparison.results import ComparisonRun


def entry(name, values, seeds=None):
    seeds = range(len(values)) if seeds is None else seeds
    cells = [
        ComparisonRun(seed, Path(name), {"box/AP": v, "box/APl": None}, [], 1.0)
        for seed, v in zip(seeds, values, strict=True)
    ]
    return MeasuredMethod(name, name, tuple(cells), None)


def test_means_deviations_and_paired_differences():
    nearest, afi = summarize([entry("afi", [31.0, 33.5, 34.0]), entry("nearest", [30.0, 32.0, 33.0])], "nearest")
    assert (nearest.name, afi.name) == ("nearest", "afi")
    assert afi.mean["box/AP"] == pytest.approx(32.8333, abs=1e-4)
    assert afi.deviation["box/AP"] == pytest.approx(1.6073, abs=1e-4)
    assert afi.mean["box/APl"] is None
    assert nearest.difference == {}
    assert nearest.verdict == ""
    found = afi.difference["box/AP"]
    assert found.mean == pytest.approx(3.5 / 3)
    assert found.low == pytest.approx(3.5 / 3 - 4.30265 * 0.288675 / 3**0.5, abs=1e-4)
    assert found.seeds == 3
    assert found.claimed
    assert "box/APl" not in afi.difference


def test_seeds_are_paired_by_number_not_by_place():
    methods = summarize([entry("nearest", [30.0, 40.0, 50.0]), entry("afi", [51.0, 41.5], seeds=(2, 1))], "nearest")
    found = methods[1].difference["box/AP"]
    assert (found.mean, found.seeds) == (1.25, 2)


def test_a_claim_must_stand_out_among_all_methods():
    """p is 0.035 for each method: enough alone, too much for two by Holm's rule."""
    nearest, afi, carafe = (
        entry("nearest", [30.0] * 3),
        entry("afi", [31.0, 31.5, 32.0]),
        entry("carafe", [31, 31.5, 32]),
    )
    (_, alone) = summarize([nearest, afi], "nearest")
    assert alone.difference["box/AP"].claimed
    (_, *both) = summarize([nearest, afi, carafe], "nearest")
    for method in both:
        assert method.difference["box/AP"].low == alone.difference["box/AP"].low > 0
        assert not method.difference["box/AP"].claimed
        assert "too little to stand out among 2 methods" in method.verdict


def test_a_method_of_one_seed_is_not_counted_among_those_that_must_be_beaten():
    several = [entry("nearest", [30.0] * 3), *(entry(name, [31.0, 31.5, 32.0]) for name in ("afi", "carafe"))]
    methods = summarize([*several, entry("fade", [30.9])], "nearest")
    assert "too little to stand out among 2 methods" in methods[1].verdict
    assert "nothing can be claimed from one seed" in methods[3].verdict


def test_without_a_common_seed_nothing_is_said():
    methods = summarize([entry("nearest", [30.0], seeds=(0,)), entry("afi", [35.0], seeds=(1,))], "nearest")
    assert methods[1].difference == {}
    assert "no seed has an AP of both" in methods[1].verdict


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [(["afi", "nearest"], None, "nearest"), (["afi", "fade"], None, "afi"), (["afi", "nearest"], "afi", "afi")],
)
def test_the_baseline(names, wanted, expected):
    assert choose_baseline(names, wanted) == expected


def test_an_unknown_baseline_is_refused():
    with pytest.raises(UserError, match="--baseline: no method is called 'nearst'; did you mean 'nearest'"):
        choose_baseline(["nearest", "afi"], "nearst")
