"""How curves of many runs are told apart: colour, marker and dashes."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from afictl.visualization.style import class_color

_HUES = (5, 1, 3, 6, 2, 7)  # of the palette, the ones that read as thin lines on white, far apart first
MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 4)))
_OF_A_SEED = re.compile(r"(.+)/seed\d+")


def colours() -> list[tuple[float, float, float]]:
    """Red, green and blue from 0 to 1, as matplotlib takes them."""
    return [(r / 255, g / 255, b / 255) for r, g, b in map(class_color, _HUES)]


def styled(names: Collection[str]) -> list[tuple[str, dict[str, Any]]]:
    """Colour and marker tell methods apart, dashes the seeds of one, as far as the names of runs speak of seeds.

    Returns:
        For each name of ``names`` the keyword arguments of a matplotlib line.
    """
    palette = colours()
    members: dict[str, int] = {}
    looks: dict[tuple[str, int], int] = {}
    styles = []
    for name in names:
        found = _OF_A_SEED.fullmatch(name)
        method = found[1] if found else name
        seed = members[method] = members.get(method, -1) + 1
        look = looks.setdefault((method, seed // len(_DASHES)), len(looks))
        style = {
            "color": palette[look % len(palette)],
            "marker": MARKERS[look // len(palette) % len(MARKERS)],
            "markersize": 4,
            "linestyle": _DASHES[seed % len(_DASHES)],
            "linewidth": 1.6,
        }
        styles.append((name, style))
    return styles


def alike(names: Collection[str]) -> str:
    """What a reader has to know of runs that look the same; nothing where all differ."""
    looks = [tuple(style.values()) for _, style in styled(names)]
    same = sum(looks.count(look) > 1 for look in looks)
    return f"Too many runs to tell apart: {same} of {len(looks)} are drawn like another one" if same else ""
