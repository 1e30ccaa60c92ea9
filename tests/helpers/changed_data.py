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


def renumber(split, content):
    """Other ids of categories, images and objects, in another order of the categories, for ``change_annotations``."""
    categories = {category["id"]: 50 - category["id"] for category in content["categories"]}
    for category in content["categories"]:
        category["id"] = categories[category["id"]]
    for image in content["images"]:
        image["id"] += 1000
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = 7000 - number
        annotation["image_id"] += 1000
        annotation["category_id"] = categories[annotation["category_id"]]
