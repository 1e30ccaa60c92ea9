"""Folders as other programs export them, and file names that do not lead to their files."""

import json

import pytest

from afictl.data import load_dataset
from afictl.data.check import check_split
from afictl.data.image_listing import require_images
from afictl.data.layouts import find_split
from afictl.data.subset import write_subset
from afictl.errors import UserError

COCO = json.dumps({"images": [{"file_name": "1.jpg", "height": 8}] * 10_000, "annotations": [], "categories": []})
LABELME = json.dumps({"version": "5.0", "flags": {}, "shapes": [], "imagePath": "1.jpg"})


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        (["_annotations.coco.json", "1.jpg"], r"Roboflow.*instances_SPLIT\.json"),
        (["annotations/instances_default.json", "images/default/1.jpg"], r"CVAT.*instances_train\.json"),
        (["result.json", "images/1.jpg"], r"Label Studio.*result\.json.*without 'images/'"),
        (["labels.json", "data/1.jpg"], r"FiftyOne.*labels\.json.*data to train"),
        (["train/labels.json", "train/data/1.jpg"], "FiftyOne.*SPLIT/labels"),
        (["meta.json", "ds0/ann/1.jpg.json", "ds0/img/1.jpg"], "Supervisely.*COCO"),
        (["Annotations/1.xml", "JPEGImages/1.jpg"], "Pascal VOC"),
        (["train/1.xml", "train/1.jpg"], "Pascal VOC"),
        (["data.yaml", "images/train/1.jpg", "labels/train/1.txt"], r"YOLO.*data\.yaml"),
        (["data.yaml", "train/images/1.jpg", "train/labels/1.txt"], r"YOLO.*data\.yaml"),
        (["train/_annotations.csv", "train/1.jpg"], "table.*COCO"),
        (["train/objects.tfrecord"], "TFRecord.*COCO"),
        (["1.json", "1.jpg"], r"LabelMe.*1\.json.*labelme2coco"),
        (["coco/annotations/people.json"], "one folder deeper.*coco"),
        (["annotations/people.json", "train/1.jpg"], "people"),
        (["VOCdevkit/VOC2012/Annotations/1.xml", "VOCdevkit/VOC2012/JPEGImages/1.jpg"], "Pascal VOC"),
        (["1.xml", "1.jpg"], "Pascal VOC"),
        (["obj.data", "obj_train_data/1.txt"], r"YOLO.*data\.yaml"),
        (["classes.txt", "1.txt", "1.jpg"], r"YOLO.*data\.yaml"),
        (["train-annotations-bbox.csv", "train/1.jpg"], "Open Images.*COCO"),
        (["labels/detections.csv", "data/1.jpg"], "Open Images.*COCO"),
        (["samples.json", "metadata.json", "data/1.jpg"], "FiftyOne's own format.*COCO"),
        (["train/meta.json", "train/ds0/1.jpg"], "Supervisely.*COCO"),
        (["train/annotation_coco.json", "train/1.jpg"], r"instances_SPLIT\.json"),
        (["Annotations/instances_train.json", "train/1.jpg"], "rename the folder Annotations to annotations"),
        (["_annotations.createml.json", "1.jpg"], "CreateML.*COCO"),
        (["coco.json", "1.jpg"], r"coco\.json.*annotations/instances_SPLIT\.json.*images"),
        (["data.zip"], r"archive \(data\.zip\): unpack"),
        (["1.jpg"], r"no train annotation file: it has images \(1\.jpg\) but no annotations"),
        (["notes.txt"], "no train annotation file: looked for"),
    ],
)
def test_a_folder_of_another_layout_is_told_with_the_steps(tmp_path, files, facts):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(
            {"1.json": LABELME, "coco.json": COCO, "annotations/train.json": COCO}.get(name, "{}")
        )
    with pytest.raises(UserError, match=f"{facts}.*{tmp_path}") as error:
        find_split(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_a_split_that_is_absent_from_a_valid_dataset_is_told_alone(write_coco):
    data = write_coco([{}])
    with pytest.raises(UserError, match="no test annotation file: looked for annotations"):
        find_split(data, "test")


@pytest.fixture
def windows(write_coco):
    """A dataset whose images are in a subfolder and whose file names have backslashes, as Label Studio writes them."""
    data = write_coco([{}])
    for split in ("train", "val"):
        (data / split / "images").mkdir()
        (data / split / "1.png").rename(data / split / "images" / "1.png")
        file = data / "annotations" / f"instances_{split}.json"
        file.write_text(file.read_text().replace("1.png", r"images\\1.png"))
    return data


def test_backslashes_separate_folders(windows, tmp_path):
    dataset = load_dataset(windows, "train")
    assert dataset.image_path(0) == windows / "train" / "images" / "1.png"
    require_images(dataset)
    assert not check_split(windows, "train").fatal
    write_subset(windows, tmp_path / "subset", 0.5)
    assert load_dataset(tmp_path / "subset", "train").image_path(0).is_file()


def test_backslashes_do_not_lead_out_of_the_folder(windows):
    file = windows / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = r"..\..\images\1.png"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="outside"):
        load_dataset(windows, "train").image_path(0)


def test_images_in_subfolders_are_told(write_coco):
    data = write_coco([{}])
    (data / "train" / "camera").mkdir()
    (data / "train" / "1.png").rename(data / "train" / "camera" / "1.png")
    with pytest.raises(UserError, match=r"1\.png is in .*/train/camera: put that folder before 'file_name'"):
        require_images(load_dataset(data, "train"))


@pytest.mark.parametrize("name", [r"images\1.png", "train/1.png", "/home/me/1.png", "1.jpg"])
def test_a_file_that_lies_elsewhere_in_the_folder_is_told(write_coco, name):
    data = write_coco([{}])
    file = data / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"1.png"', json.dumps(name)))
    report = check_split(data, "train")
    if name.startswith("/"):
        assert report.fatal == ["file-outside"]
        return
    (finding,) = report.findings["missing-file"]
    assert f"1.png is in {data / 'train'}" in finding.detail
    with pytest.raises(UserError, match=r"1\.png is in .*file_name"):
        require_images(load_dataset(data, "train"))
