"""Layout of panels, heading, legend and colour scale."""

import numpy as np
from PIL import Image

from afictl.visualization.figure import Figure, Panel

RED, BLUE = (200, 30, 60), (20, 60, 220)


def panels(count, size=(200, 100)):
    return [Panel(Image.new("RGB", size, RED), f"panel {k}") for k in range(count)]


def count(picture, color):
    return int((np.asarray(picture) == color).all(axis=2).sum())


def test_fewer_columns_make_a_higher_figure():
    wide, narrow = (Figure("x", panels(6), columns=columns).draw() for columns in (6, 3))
    assert wide.width > 6 * 200
    assert narrow.width < 4 * 200
    assert narrow.height > wide.height + 100
    assert count(wide, RED) == count(narrow, RED) == 6 * 200 * 100


def test_heading_and_scale_add_height_without_overlap():
    plain = Figure("x", panels(2), legend=[("class", BLUE)]).draw()
    strip = Image.new("RGB", (1200, 20), (9, 9, 9))
    full = Figure("x", panels(2), "A title", "many words " * 40, legend=[("class", BLUE)], strip=strip).draw()
    assert full.height > plain.height + 20
    assert full.width >= 1200
    assert count(full, RED) == 2 * 200 * 100
    assert count(full, (9, 9, 9)) == 1200 * 20
    assert count(full, BLUE) == count(plain, BLUE)


def ink_right_of_panels(picture, width):
    """Width of the writing beyond the first picture, in pixels."""
    dark = (np.asarray(picture.convert("L")) < 120).any(axis=0)
    return int(np.flatnonzero(dark[: picture.width // 2]).max()) - width


def test_captions_of_narrow_panels_are_not_shortened():
    """Two pictures of 40 pixels below titles of 150: the columns grow, and a note goes below its title."""
    tall = [Panel(Image.new("RGB", (40, 300), RED), "error of bilinear", "L1 1.234   cosine 0.987") for _ in range(2)]
    page = Figure("x", tall).draw()
    assert page.width > 2 * 150
    assert ink_right_of_panels(page, 40) > 100
    assert count(page, RED) == 2 * 40 * 300


def test_a_long_note_goes_below_the_title():
    title, note = "error of dysample-plus (untrained)", "L1 1.234   cosine 0.987"
    short = Figure("x", [Panel(Image.new("RGB", (280, 200), RED), title)] * 2).draw()
    long = Figure("x", [Panel(Image.new("RGB", (280, 200), RED), title, note)] * 2).draw()
    assert long.size == (short.width, short.height + 21)
    first, second = (np.asarray(page)[:30] for page in (short, long))
    assert (first == second).all()  # the title is unchanged
