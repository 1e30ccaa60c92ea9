"""The pictures of an evaluation are drawn for few and many classes, with and without objects."""

import numpy as np
import pytest
from PIL import Image

from afictl.visualization.confusion import plot_confusion
from afictl.visualization.pr_curves import plot_precision_recall


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


@pytest.mark.parametrize("classes", [1, 5, 80])
def test_confusion(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 9, (classes + 1, classes + 1))
    counts[0] = 0
    plot_confusion(counts, [f"class {k}" for k in range(classes)], tmp_path / "confusion.png", note="score from 0.3")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 3000
