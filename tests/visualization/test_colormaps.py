"""Colour maps are monotonic in luminance or distinct without red and green."""

import numpy as np
import pytest

from afictl.visualization.colormaps import component_colors, heat_colors, scale_bar, scale_strip


def luminance(colors):
    linear = np.where(colors <= 10, colors / 255 / 12.92, ((colors / 255 + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_heat_grows_in_luminance_and_saturates():
    colors = heat_colors(np.linspace(0, 1, 50))
    assert colors.shape == (50, 3)
    assert (np.diff(luminance(colors.astype(float))) > 0).all()
    assert (heat_colors(np.array([-3.0, 7.0])) == heat_colors(np.array([0.0, 1.0]))).all()


def test_the_first_component_is_lightness():
    components = np.full((20, 3), 0.5)
    components[:, 0] = np.linspace(0, 1, 20)
    assert (np.diff(luminance(component_colors(components).astype(float))) > 0).all()
    middle = component_colors(np.array([0.5, 0.5, 0.5]))
    assert np.ptp(middle.astype(int)) <= 2  # grey


def test_the_second_component_differs_without_red_and_green():
    low, high = component_colors(np.array([[0.5, 0, 0.5], [0.5, 1, 0.5]])).astype(int)
    assert low[2] - high[2] > 100


@pytest.mark.parametrize("size", [(280, 20), (280, 40), (480, 320), (480, 36)])
def test_scales_have_the_requested_size(size):
    assert scale_bar(size, 1.25).size == size
    assert scale_strip(20, 0.001, "Grad-CAM").height == 30


def test_a_narrow_scale_is_widened_and_a_low_one_is_horizontal():
    narrow = np.asarray(scale_bar((40, 480), 1.25))
    assert narrow.shape[1] > 130
    assert (narrow[:, -2:] == 255).all()  # no letter is cut off at the right
    low = np.asarray(scale_bar((480, 36), 1.25)).astype(int)
    ramp = low[9]  # along the middle of the strip
    coloured = np.flatnonzero(np.ptp(ramp, axis=1) > 30)
    assert len(coloured) > 100
    assert (np.diff(luminance(ramp[coloured[5:-5]].astype(float))) >= 0).all()
