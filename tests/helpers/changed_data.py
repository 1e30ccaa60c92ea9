"""Copies of a dataset with other annotations."""

import json


def change_annotations(data, folder, change):
    """A copy of ``data`` with ``change(split, content)`` applied to the content of each annotation file."""
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).symlink_to(data / split)
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        change(split, content)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def rename_disc(data, folder, splits=("train2017", "val2017")):
    """A copy of ``data`` whose class "disc" is called "coin" in some splits."""

    def change(split, content):
        for category in content["categories"]:
            if split in splits and category["name"] == "disc":
                category["name"] = "coin"

    return change_annotations(data, folder, change)
