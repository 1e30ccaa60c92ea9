"""Texts in charts."""

import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from matplotlib import rc_context


def drawn_texts(draw: Callable[[Path], None], folder: Path) -> list[str]:
    """The lines of text of the chart that ``draw`` writes; a warning is an error."""
    with rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(folder / "chart.svg")
    texts = ElementTree.parse(folder / "chart.svg").iter("{http://www.w3.org/2000/svg}text")
    return ["".join(text.itertext()).strip() for text in texts]
