import itertools
import math

import pytest

from afictl.comparison.analysis.statistics import (
    deviation,
    paired_difference,
    seeds_for_power,
    significant,
    t_quantile,
    t_tail,
)


@pytest.mark.parametrize(
    ("degrees", "probability", "expected"),
    [  # printed tables of Student's t
        (1, 0.975, 12.7062),
        (2, 0.975, 4.3027),
        (3, 0.975, 3.1824),
        (4, 0.975, 2.7764),
        (9, 0.975, 2.2622),
        (10, 0.95, 1.8125),
        (30, 0.975, 2.0423),
        (1, 0.995, 63.6567),
        (2, 0.995, 9.9248),
    ],
)
def test_quantiles_of_students_t(degrees, probability, expected):
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.7, 6.0])
def test_tails_equal_the_integral_of_the_density(degrees, t):
    constant = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    steps = 20_000
    points = [t * (k + 0.5) / steps for k in range(steps)]
    within = 2 * sum((1 + x * x / degrees) ** (-(degrees + 1) / 2) for x in points) * t / steps * constant
    assert t_tail(t, degrees) == pytest.approx(1 - within, abs=1e-7)


def test_a_paired_difference_equals_manual_calculation():
    difference = paired_difference([1.0, 2.0, 3.0])
    half = 4.30265 / math.sqrt(3)
    assert (difference.mean, difference.count, difference.deviation) == (2.0, 3, 1.0)
    assert difference.low == pytest.approx(2 - half, abs=1e-4)
    assert difference.high == pytest.approx(2 + half, abs=1e-4)
    assert difference.p == pytest.approx(0.0742, abs=1e-4)  # t = 3.4641 with 2 degrees of freedom


@pytest.mark.parametrize(
    ("effect", "expected"),
    [  # printed tables of the exact one-sample t test, two-sided, 5 %, power 80 %
        (0.1, 787),
        (0.2, 199),
        (0.3, 90),
        (0.4, 52),
        (0.5, 34),
        (0.6, 24),
        (0.7, 19),
        (0.8, 15),
        (1.0, 10),
        (2.0, 5),
    ],
)
def test_seeds_for_a_power_of_80_percent(effect, expected):
    assert seeds_for_power(effect, 1.0) == seeds_for_power(0.5, 0.5 / effect) == expected


def test_seeds_for_a_small_difference_continue_those_of_larger_ones():
    """Above 1,000 another formula is used; the number is proportional to the variance up to a constant of two."""
    below, above = (seeds_for_power(1.0, deviation) for deviation in (11.28, 11.30))
    assert 1000 <= below <= above <= below + 5
    assert seeds_for_power(0.01, 1.0) == pytest.approx(100 * (seeds_for_power(0.1, 1.0) - 1.92) + 1.92, abs=60)


def test_without_variance_no_number_of_seeds_is_named():
    assert seeds_for_power(0.5, 0.0) is None
    assert seeds_for_power(0.5, 1e-12) is None


def test_rounding_errors_give_no_p_value():
    assert paired_difference([30.3 - 30.0, 40.3 - 40.0]).p is None


def test_the_interval_excludes_zero_if_p_is_below_5_percent():
    for values in itertools.product([0.1, 0.5, 1.1], [0.4, 0.9], [0.8, -0.2]):
        difference = paired_difference(values)
        assert (difference.low > 0 or difference.high < 0) == (difference.p < 0.05)


def test_one_seed_has_no_interval():
    difference = paired_difference([9.0])
    assert (difference.mean, difference.count) == (9.0, 1)
    assert (difference.low, difference.high, difference.p) == (None, None, None)
    assert deviation([9.0]) is None


def test_equal_differences_have_no_p_value():
    assert paired_difference([0.0, 0.0]).p is None
    assert paired_difference([0.5, 0.5, 0.5]).p is None


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ({"a": 0.04}, {"a"}),
        ({"a": 0.04, "b": 0.5}, set()),
        ({"a": 0.02, "b": 0.04}, {"a", "b"}),  # 0.05 / 2, then 0.05
        ({"a": 0.026, "b": 0.04}, set()),
        ({"a": 0.01, "b": 0.03, "c": 0.04}, {"a"}),  # the second is above 0.05 / 2, so the third is not tried
        ({"a": 0.04, "b": None}, {"a"}),
        ({}, set()),
    ],
)
def test_significance_follows_holms_rule(p_values, expected):
    assert significant(p_values) == expected
