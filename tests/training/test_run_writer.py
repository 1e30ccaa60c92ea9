"""Messages of a run about other settings."""

import pytest

from afictl.training.run_writer import config_differences, describe_differences


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ({"preset": {"name": "a", "lr": 1}}, {"preset": {"name": "b", "lr": 2}}, "preset a, now b"),
        ({"seed": 0, "weights": ""}, {"seed": 1, "weights": "x.pth"}, "seed 0, now 1; weights none, now x.pth"),
        ({"a": {"b": 1}}, {}, "a {'b': 1}, now none"),
        (dict.fromkeys("abcde", 0), dict.fromkeys("abcde", 1), "a 0, now 1; b 0, now 1; c 0, now 1; 2 more: d, e"),
    ],
)
def test_other_settings_are_told_with_both_values(old, new, text):
    assert describe_differences(old, new, config_differences(old, new)) == text
