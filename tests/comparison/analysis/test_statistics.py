import itertools
import math

import pytest

from afictl.comparison.analysis.statistics import deviation, paired_difference, significant, t_quantile, t_tail


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
    assert (difference.mean, difference.count) == (2.0, 3)
    assert difference.low == pytest.approx(2 - half, abs=1e-4)
    assert difference.high == pytest.approx(2 + half, abs=1e-4)
    assert difference.p == pytest.approx(0.0742, abs=1e-4)  # t = 3.4641 with 2 degrees of freedom


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
