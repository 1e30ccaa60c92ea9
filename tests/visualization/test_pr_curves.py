"""Precision over recall is drawn for few and many classes, with and without objects, under their own names."""

import numpy as np
import pytest
from PIL import Image

from afictl.visualization.pr_curves import plot_precision_recall
from tests.helpers.images import drawn_texts


def curves(classes, seed=0):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.random((10, 101, classes, 4)), axis=1)[:, ::-1]
    values[:, :, -1] = -1  # a class without objects
    return values


@pytest.mark.parametrize("classes", [1, 4, 30])
@pytest.mark.parametrize("kinds", [("box",), ("box", "mask")])
def test_curves(tmp_path, classes, kinds):
    path = tmp_path / "new" / "curves.png"
    plot_precision_recall({kind: curves(classes) for kind in kinds}, [f"class {k}" for k in range(classes)], path)
    with Image.open(path) as picture:
        assert picture.height == pytest.approx(630 * len(kinds), abs=5)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert len(colours) > 20


def test_class_names_stand_in_the_legend_as_they_are_written(tmp_path):
    names = ["$\\foo$", "_hidden", "a_b $5", "红细胞"]
    texts = drawn_texts(lambda path: plot_precision_recall({"box": curves(5)}, [*names, "none"], path), tmp_path)
    assert [next((name for name in names if text.startswith(f"{name}: ")), None) for text in texts].count(None) == (
        len(texts) - len(names)
    )
