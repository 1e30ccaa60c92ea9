"""Fingerprints of annotations: what changes them and what does not."""

import json

import pytest

from afictl.data import load_dataset
from afictl.data.fingerprint import content_fingerprint, ids_fingerprint
from tests.helpers.changed_data import change_annotations, renumber


@pytest.fixture
def fingerprints(shapes_dir, tmp_path):
    """A function that returns both fingerprints of the held-out shapes after a change of their content."""

    def fingerprints(change=lambda split, content: None):
        folder = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        dataset = load_dataset(change_annotations(shapes_dir, folder, change), "val")
        return content_fingerprint(dataset), ids_fingerprint(dataset)

    return fingerprints


def test_ids_order_of_keys_and_whitespace_do_not_change_the_content(shapes_dir, tmp_path, fingerprints):
    content, ids = fingerprints(renumber)
    assert content == fingerprints()[0]
    assert ids != fingerprints()[1]
    folder = change_annotations(shapes_dir, tmp_path / "indented", lambda split, content: None)
    file = folder / "annotations" / "instances_val2017.json"
    values = json.loads(file.read_text())
    values["categories"].reverse()
    file.write_text(json.dumps(dict(reversed(values.items())), indent=3, sort_keys=True))
    dataset = load_dataset(folder, "val")
    assert (content_fingerprint(dataset), ids_fingerprint(dataset)) == fingerprints()


def test_the_order_of_labels_does_not_change_the_content(shapes_dir):
    dataset = load_dataset(shapes_dir, "val")
    assert content_fingerprint(dataset.in_label_order(dataset.classes[::-1])) == content_fingerprint(dataset)


CHANGES = {
    "box": lambda content: content["annotations"][0]["bbox"].__setitem__(0, 1.5),
    "area": lambda content: content["annotations"][0].update(area=3.0),
    "crowd": lambda content: content["annotations"][0].update(iscrowd=1),
    "outline": lambda content: content["annotations"][0].update(segmentation=[[1, 1, 9, 1, 9, 9]]),
    "class": lambda content: content["annotations"][0].update(
        category_id=content["annotations"][0]["category_id"] % 4 + 1
    ),
    "class name": lambda content: content["categories"][0].update(name="coin"),
    "added class": lambda content: content["categories"].append({"id": 90, "name": "coin"}),
    "file name": lambda content: content["images"][0].update(file_name="other.jpg"),
    "image size": lambda content: content["images"][0].update(height=97),
    "object": lambda content: content["annotations"].pop(),
    "image": lambda content: content["images"].append({**content["images"][0], "id": 99, "file_name": "new.jpg"}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_value_that_training_or_evaluation_uses_changes_the_content(fingerprints, change):
    assert fingerprints(lambda split, content: change(content))[0] != fingerprints()[0]
