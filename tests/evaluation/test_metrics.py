import pytest

from afictl.evaluation.metrics import format_difference, format_points


@pytest.mark.parametrize(
    ("points", "value", "difference"),
    [(41.26, "41.3", "+41.3"), (-1.25, "-1.2", "-1.2"), (0.04, "0.0", "0.0"), (-0.04, "0.0", "0.0")],
)
def test_a_rounded_zero_has_no_sign(points, value, difference):
    assert (format_points(points), format_difference(points)) == (value, difference)
