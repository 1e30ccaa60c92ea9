"""Confusion of few and many classes, under their own names."""

import numpy as np
import pytest
from PIL import Image

from afictl.visualization.confusion import plot_confusion
from tests.helpers.images import drawn_texts


@pytest.mark.parametrize("classes", [1, 5, 80])
def test_confusion(tmp_path, classes):
    counts = np.random.default_rng(0).integers(0, 9, (classes + 1, classes + 1))
    counts[0] = 0
    plot_confusion(counts, [f"class {k}" for k in range(classes)], tmp_path / "confusion.png", note="score from 0.3")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 3000


def test_class_names_are_drawn_as_they_are_written(tmp_path):
    names = ["$\\foo$", "_hidden", "a_b $5", "红细胞"]
    texts = drawn_texts(lambda path: plot_confusion(np.eye(5, dtype=int), names, path, note="$x$"), tmp_path)
    assert [texts.count(name) for name in names] == [2, 2, 2, 2]
    assert "$x$" in texts
