from dataclasses import replace
from pathlib import Path

import pytest

from afictl.comparison.analysis.verdicts import overview_sentences, verdict_sentence
from afictl.comparison.results import Comparison, Cost, Difference, MethodResult


def method(name, multiply_adds=1000, **differences):
    cost = Cost((64, 64), 1, 0, multiply_adds, 0, 1.0, 0.0, 1, 0) if multiply_adds else None
    by_metric = {kind.replace("_", "/"): value for kind, value in differences.items()}
    return MethodResult(name, str(Path(name)), (), cost, difference=by_metric)


CLAIMED = Difference(1.8, 0.9, 2.7, 3, True)
UNCLAIMED = Difference(0.3, -0.9, 1.5, 3, False)


@pytest.mark.parametrize(
    ("differences", "multiply_adds", "num_tested", "expected"),
    [
        (
            {"box_AP": CLAIMED},
            1900,
            1,
            "AFI +1.8 box AP over nearest (95 % interval 0.9 to 2.7, 3 seeds) for 1.9x the multiply-adds",
        ),
        (
            {"box_AP": UNCLAIMED},
            1900,
            1,
            "AFI: no difference in box AP to nearest can be claimed (+0.3, 95 % interval -0.9 to 1.5, 3 seeds),"
            " at 1.9x the multiply-adds",
        ),
        (
            {"box_AP": Difference(-1.8, -2.7, -0.9, 3, True)},
            1000,
            1,
            "AFI -1.8 box AP against nearest (95 % interval -2.7 to -0.9, 3 seeds) for the same multiply-adds",
        ),
        (
            {"box_AP": Difference(0.8, 0.1, 1.5, 4, False)},
            1031,
            10,
            "AFI: no difference in box AP to nearest can be claimed (+0.8, 95 % interval 0.1 to 1.5, 4 seeds; too"
            " small to be significant among 10 methods), at 1.03x the multiply-adds",
        ),
        (
            {"box_AP": Difference(9.0, None, None, 1, False)},
            None,
            1,
            "AFI: nothing can be claimed from one seed (+9.0 box AP)",
        ),
        (
            {"box_AP": CLAIMED, "mask_AP": UNCLAIMED},
            1900,
            1,
            "AFI +1.8 box AP over nearest (95 % interval 0.9 to 2.7, 3 seeds); no difference in mask AP to nearest can"
            " be claimed (+0.3, 95 % interval -0.9 to 1.5, 3 seeds), at 1.9x the multiply-adds",
        ),
        ({}, 1900, 1, "AFI: nothing can be claimed, as no seed has an AP of both it and nearest"),
        (
            {"box_AP": Difference(-0.03, -0.04, 3.4, 2, False)},  # no "-0.0"
            None,
            1,
            "AFI: no difference in box AP to nearest can be claimed (0.0, 95 % interval 0.0 to 3.4, 2 seeds)",
        ),
        (
            {"box_AP": Difference(0.8, 0.8, 0.8, 2, False)},
            None,
            3,
            "AFI: no difference in box AP to nearest can be claimed (+0.8, 95 % interval 0.8 to 0.8, 2 seeds; equal"
            " for every seed, so that there is no variance for a test)",
        ),
    ],
)
def test_a_verdict_has_the_difference_its_interval_and_the_cost(differences, multiply_adds, num_tested, expected):
    candidate = method("AFI", multiply_adds, **differences)
    assert verdict_sentence(candidate, method("nearest"), num_tested) == expected


def test_unequal_settings_are_part_of_the_verdict():
    sentence = verdict_sentence(method("afi", 1900, box_AP=CLAIMED), method("nearest"), 1, ["train.lr", "weights"])
    assert "differ in train.lr, weights " in sentence


WORSE = Difference(-1.8, -2.7, -0.9, 3, True)
ONE_SEED = Difference(9.0, None, None, 1, False)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([UNCLAIMED, UNCLAIMED], []),  # of two methods the verdicts suffice
        ([UNCLAIMED, UNCLAIMED, ONE_SEED], []),
        ([UNCLAIMED, UNCLAIMED, UNCLAIMED], ["box AP of 3 methods against nearest: no difference can be claimed"]),
        (
            [CLAIMED, UNCLAIMED, WORSE, CLAIMED, UNCLAIMED, ONE_SEED],
            [
                "box AP of 5 methods against nearest: better: m0, m3; worse: m2; no difference can be claimed of the"
                " other 2"
            ],
        ),
        ([WORSE] * 3, ["box AP of 3 methods against nearest: worse: m0, m1, m2"]),
    ],
)
def test_many_verdicts_are_summarized_in_one_sentence(differences, expected):
    methods = (method("nearest"), *(method(f"m{k}", box_AP=item) for k, item in enumerate(differences)))
    comparison = Comparison("preset", None, "nearest", {"seeds": "3"}, methods)
    assert overview_sentences(comparison) == expected
    unequal = replace(comparison, settings={"NOT THE SAME, train.lr": "0.1: a; 0.2: b"})
    assert overview_sentences(unequal) == [
        f"{text}; the runs differ in more than the interpolator" for text in expected
    ]


def test_boxes_and_masks_have_separate_sentences():
    methods = (method("nearest"), *(method(f"m{k}", box_AP=UNCLAIMED, mask_AP=CLAIMED) for k in range(3)))
    comparison = Comparison("preset", None, "nearest", {}, methods)
    assert overview_sentences(comparison) == [
        "box AP of 3 methods against nearest: no difference can be claimed",
        "mask AP of 3 methods against nearest: better: m0, m1, m2",
    ]
