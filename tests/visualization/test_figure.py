"""Panels, heading, legend and colour scale on one sheet."""

import numpy as np
from PIL import Image

from afictl.visualization.figure import Figure, Panel

RED, BLUE = (200, 30, 60), (20, 60, 220)


def panels(count, size=(200, 100)):
    return [Panel(Image.new("RGB", size, RED), f"panel {k}") for k in range(count)]


def count(picture, color):
    return int((np.asarray(picture) == color).all(axis=2).sum())


def test_columns_are_as_many_as_asked():
    wide, narrow = (Figure("x", panels(6), columns=columns).draw() for columns in (6, 3))
    assert wide.width > 6 * 200
    assert narrow.width < 4 * 200
    assert narrow.height > wide.height + 100
    assert count(wide, RED) == count(narrow, RED) == 6 * 200 * 100


def test_heading_and_scale_add_height_and_cover_nothing():
    plain = Figure("x", panels(2), legend=[("class", BLUE)]).draw()
    strip = Image.new("RGB", (1200, 20), (9, 9, 9))
    full = Figure("x", panels(2), "A title", "many words " * 40, legend=[("class", BLUE)], strip=strip).draw()
    assert full.height > plain.height + 20
    assert full.width >= 1200
    assert count(full, RED) == 2 * 200 * 100
    assert count(full, (9, 9, 9)) == 1200 * 20
    assert count(full, BLUE) == count(plain, BLUE)
