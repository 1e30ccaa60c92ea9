"""That runs are drawn differently, and seeds of one method akin."""

import pytest

from afictl.visualization.curve_styles import styled


def looks(names):
    return [tuple(style.values()) for _, style in styled(dict.fromkeys(names))]


@pytest.mark.parametrize("count", [11, 36])
def test_many_runs_are_told_apart(count):
    assert len(set(looks(f"run {k}" for k in range(count)))) == count


def test_seeds_of_a_method_share_colour_and_marker_and_differ_in_dashes():
    names = [f"method {k}/seed{seed}" for k in range(12) for seed in range(6)]
    styles = dict(styled(dict.fromkeys(names)))
    assert len(set(looks(names))) == len(names)
    for k in range(12):
        shared = {(styles[f"method {k}/seed{s}"]["color"], styles[f"method {k}/seed{s}"]["marker"]) for s in range(6)}
        assert len(shared) == 1
    assert len(set(looks(f"one/seed{k}" for k in range(40)))) == 40
