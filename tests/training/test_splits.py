"""Data that training refuses before it begins."""

import json
import shutil

import pytest

from afictl import load_preset
from afictl.errors import UserError
from afictl.training.splits import load_splits, uses_masks


@pytest.fixture
def changed(shapes_dir, tmp_path):
    """A function that changes all objects of one split of a copy of the generated dataset."""

    def change(split, edit):
        data = shutil.copytree(shapes_dir, tmp_path / "data")
        file = data / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        for record in content["annotations"]:
            record |= edit(*record["bbox"])
        file.write_text(json.dumps(content))
        return data

    return change


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("edit", "meaning"),
    [
        (lambda x, y, w, h: {"bbox": [x / 96, y / 96, w / 96, h / 96]}, "fractions"),
        (lambda x, y, w, h: {"bbox": [x, y, x + w, y + h]}, "corners"),
    ],
)
def test_boxes_of_another_format_are_refused(changed, split, edit, meaning):
    with pytest.raises(UserError, match=rf"instances_{split}2017\.json: .*{meaning}"):
        load_splits(changed(split, edit))


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_of_another_scale_are_refused_only_where_masks_are_trained(changed, split):
    data = changed(
        split, lambda x, y, w, h: {"segmentation": [[x / 4, y / 4, x / 4 + w / 4, y / 4, x / 4, y / 4 + h / 4]]}
    )
    splits = load_splits(data)
    assert not uses_masks(load_preset("faster-rcnn-r18-fpn-tiny"), splits)
    with pytest.raises(UserError, match=rf"instances_{split}2017\.json: .*0\.25 times"):
        uses_masks(load_preset("mask-rcnn-r18-fpn-tiny"), splits)
