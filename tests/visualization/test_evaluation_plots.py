"""Precision over recall and confusion of few and many classes, with their names drawn literally."""

import numpy as np
import pytest
from PIL import Image

from afictl.visualization.evaluation_plots import plot_confusion, plot_precision_recall
from tests.helpers.images import drawn_texts


def curves(classes, seed=0):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.random((10, 101, classes, 4)), axis=1)[:, ::-1]
    values[:, :, -1] = -1  # a class without objects
    return values


@pytest.mark.parametrize(
    "classes", [4, pytest.param(1, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kinds", [("box",), ("box", "mask")])
def test_precision_recall_has_its_size_and_many_colours(tmp_path, classes, kinds):
    path = tmp_path / "new" / "curves.png"
    plot_precision_recall({kind: curves(classes) for kind in kinds}, [f"class {k}" for k in range(classes)], path)
    with Image.open(path) as picture:
        assert picture.height == pytest.approx(630 * len(kinds), abs=5)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    assert len(colours) > 20


def test_legend_has_literal_class_names(tmp_path):
    names = ["$\\foo$", "_hidden", "a_b $5", "红细胞"]
    texts = drawn_texts(lambda path: plot_precision_recall({"box": curves(5)}, [*names, "none"], path), tmp_path)
    assert [next((name for name in names if text.startswith(f"{name}: ")), None) for text in texts].count(None) == (
        len(texts) - len(names)
    )


@pytest.mark.parametrize("classes", [1, 80, pytest.param(5, marks=pytest.mark.slow)])
def test_confusion_of_many_classes_stays_small(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 9, (classes + 1, classes + 1))
    counts[0] = 0
    plot_confusion(counts, [f"class {k}" for k in range(classes)], tmp_path / "confusion.png", note="score from 0.3")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 3000


def test_confusion_has_literal_class_names(tmp_path):
    names = ["$\\foo$", "_hidden", "a_b $5", "红细胞"]
    texts = drawn_texts(lambda path: plot_confusion(np.eye(5, dtype=int), names, path, note="$x$"), tmp_path)
    assert [texts.count(name) for name in names] == [2, 2, 2, 2]
    assert "$x$" in texts
