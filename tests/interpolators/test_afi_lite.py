"""The bottleneck form of AFI: its cost beside AFI's, and its start."""

import pytest
import torch
from torch.nn import functional as F

from afictl import build_interpolator
from afictl.detectors import interpolator_cost


def cost(kind, channels):
    """Parameters, and multiply-adds for a map of 25 x 42."""
    with torch.device("meta"):
        interpolator, coarse = build_interpolator(kind, channels), torch.empty(1, channels, 25, 42)
    return sum(value.numel() for value in interpolator.parameters()), interpolator_cost(interpolator, coarse)


@pytest.mark.parametrize("channels", [8, 64, 96, 128, 256, 384, 512, 1024])
def test_costs_at_most_15_percent_of_afi(channels):
    for lite, full in zip(cost("afi-lite", channels), cost("afi", channels), strict=True):
        assert lite <= 0.15 * full


def test_parameters_at_256_channels():
    assert cost("afi-lite", 256) == (853_120, 1_298_944 * 25 * 42)


def test_fresh_interpolator_is_nearly_bilinear():
    torch.manual_seed(0)
    coarse = torch.randn(1, 64, 6, 5)
    with torch.no_grad():
        enlarged = build_interpolator("afi-lite", 64)(coarse)
    bilinear = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    assert 0 < (enlarged - bilinear).abs().max() < 0.1


@pytest.mark.parametrize("channels", [1, 3, 8, 70])
def test_any_width_is_enlarged(channels):
    interpolator = build_interpolator("afi-lite", channels)
    assert interpolator(torch.randn(1, channels, 3, 2)).shape == (1, channels, 6, 4)


def test_options_change_depth_and_width_of_the_branch():
    interpolator = build_interpolator("afi-lite", 64, blocks=2, reduction=2)
    assert len(interpolator.group) == 2
    assert interpolator.head.out_channels == interpolator.tail.in_channels == 32
