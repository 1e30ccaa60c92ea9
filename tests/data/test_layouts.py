"""Datasets in the layouts of other programs, and their conversion."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from afictl.data import load_dataset
from afictl.data.check import check_split, splits_to_check
from afictl.data.convert import convert_dataset
from afictl.data.fingerprint import content_fingerprint
from afictl.data.image_listing import require_images
from afictl.data.layouts import describe_data, find_layout, find_split
from afictl.data.subset import write_subset
from afictl.data.unlabeled import without_labelled
from afictl.errors import UserError
from afictl.training.splits import load_splits

NAMES = {"train": ["b.png", "a.png"], "val": ["c.png"]}
BOXES = {"a.png": [10.5, 8, 20, 12.25], "b.png": [0, 0, 64, 48], "c.png": [3.3, 4.7, 11.1, 13.9]}
SQUARE = [10.5, 8.0, 30.5, 8.0, 30.5, 20.25, 10.5, 20.25]


def save_image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (len(path.stem), 90, ord(path.stem[0]))).save(path)


def coco_contents(split, first_category=1):
    images = [{"id": 7 + k, "file_name": name, "width": 64, "height": 48} for k, name in enumerate(NAMES[split])]
    objects = [
        {"id": 20 + k, "image_id": 7 + k, "category_id": first_category + k % 2, "bbox": BOXES[name]}
        for k, name in enumerate(NAMES[split])
    ]
    if split == "train":
        objects[1]["segmentation"] = [SQUARE]
    names = [{"id": first_category, "name": "cat"}, {"id": first_category + 1, "name": "dog"}]
    return {"images": images, "annotations": objects, "categories": names}


def write_json(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))


def write_coco(root, annotations="instances_{}.json", folder="{}"):
    for split in NAMES:
        write_json(root / "annotations" / annotations.format(split), coco_contents(split))
        for name in NAMES[split]:
            save_image(root / folder.format(split) / name)
    return root


def write_roboflow(root, parent_name="animals"):
    for split, folder in (("train", "train"), ("val", "valid")):
        contents = coco_contents(split)
        for category in contents["categories"]:
            category["supercategory"] = parent_name
        contents["categories"].insert(0, {"id": 0, "name": parent_name, "supercategory": "none"})
        write_json(root / folder / "_annotations.coco.json", contents)
        for name in NAMES[split]:
            save_image(root / folder / name)
    return root


def write_yolo(root, text="train: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n", images="images/{}"):
    lines = {
        "a.png": f"1 {' '.join(str(v / (48 if k % 2 else 64)) for k, v in enumerate(SQUARE))}\n",
        "b.png": "0 0.5 0.5 1 1\n\n",
        "c.png": f"0 {(3.3 + 11.1 / 2) / 64} {(4.7 + 13.9 / 2) / 48} {11.1 / 64} {13.9 / 48}\n",
    }
    for split, names in NAMES.items():
        for name in names:
            save_image(root / images.format(split) / name)
            labels = root / images.format(split).replace("images", "labels") / f"{name[0]}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(lines[name])
    (root / "data.yaml").write_text(text)
    return root


def write_voc(root):
    labels = {"a.png": "dog", "b.png": "cat", "c.png": "cat"}
    for split, names in NAMES.items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name[0]}\n" for name in names))
        for name in names:
            x, y, w, h = BOXES[name]
            box = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{name[0]}.xml").write_text(
                f"<annotation><filename>{name}</filename><size><width>64</width><height>48</height></size>"
                f"<object><name>{labels[name]}</name><bndbox>{box}</bndbox></object></annotation>"
            )
            save_image(root / "JPEGImages" / name)
    return root


def write_split_yaml(root):
    write_coco(root / "sets", annotations="{}/labels.json", folder="pictures/{}")
    entry = "{{annotations: sets/annotations/{0}/labels.json, images: sets/pictures/{0}}}"
    (root / "mine.yaml").write_text("".join(f"{split}: {entry.format(split)}\n" for split in NAMES))
    return root / "mine.yaml"


LAYOUTS = {
    "COCO": write_coco,
    "another name": lambda root: write_coco(root, "custom_{}.json"),
    "images folder": lambda root: write_coco(root, "custom_{}.json", "images/{}"),
    "one image folder": lambda root: write_coco(root, "custom-{}2024.json", "images"),
    "Roboflow": write_roboflow,
    "Roboflow of one name": lambda root: write_roboflow(root, "cat"),
    "YOLO": write_yolo,
    "YOLO by its YAML file": lambda root: write_yolo(root) / "data.yaml",
    "Roboflow's YOLO": lambda root: write_yolo(
        root, "train: ../train/images\nval: ../val/images\nnames: {0: cat, 1: dog}\n", "{}/images"
    ),
    "YOLO of another machine": lambda root: write_yolo(
        root, "path: /home/me/set\ntrain: images/train\nval: [images/val]\nnames: [cat, dog]\n"
    ),
    "YOLO beside images": lambda root: write_yolo(root, "train: train\nval: val\nnames: [cat, dog]\n", images="{}"),
    "Pascal VOC": write_voc,
    "YAML of files": write_split_yaml,
}


def objects_by_name(dataset):
    """Class and box of every object, by file name."""
    return {
        name: [
            (dataset.classes[label - 1], box.tolist())
            for label, box in zip(objects.labels.tolist(), objects.boxes, strict=True)
        ]
        for name, objects in zip(dataset.file_names, map(dataset.objects, range(len(dataset))), strict=True)
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_objects(layout, tmp_path):
    source = LAYOUTS[layout](tmp_path / "set")
    expected = load_dataset(write_coco(tmp_path / "coco"), "train")
    assert splits_to_check(source, "all") == ["train", "val"]
    train, val = load_splits(source)
    assert train.classes == val.classes == ("cat", "dog")
    for dataset, split in ((train, "train"), (val, "val")):
        require_images(dataset)
        assert dataset.sizes_hw.tolist() == [[48, 64]] * len(dataset)
        assert not check_split(source, split).fatal
    assert train.annotation_file != val.annotation_file
    objects_of_images = objects_by_name(train)
    assert objects_of_images.keys() == {"a.png", "b.png"}
    for name, objects in objects_by_name(expected).items():
        assert [label for label, _ in objects_of_images[name]] == [label for label, _ in objects]
        np.testing.assert_allclose([b for _, b in objects_of_images[name]], [b for _, b in objects], rtol=1e-6)
    assert content_fingerprint(load_dataset(source, "train")) == content_fingerprint(train)
    assert content_fingerprint(train) != content_fingerprint(val)
    assert describe_data(source, {"train": 2, "val": 1}).count("2 train, 1 val images") == 1
    write_subset(source, tmp_path / "subset", 0.5)
    assert len(load_dataset(tmp_path / "subset", "train")) == 1
    assert objects_by_name(load_dataset(tmp_path / "subset", "val")) == objects_by_name(val)
    assert without_labelled([train.image_path(0), val.image_path(0)], source) == ([], [])


def test_ids_of_formats_without_ids_follow_the_sorted_names(tmp_path):
    for write in (write_yolo, write_voc):
        train = load_dataset(write(tmp_path / write.__name__), "train")
        assert train.file_names == ["a.png", "b.png"]
        assert train.image_ids == [1, 2]
        assert train.arrays["ids"].tolist() == [1, 2]
    assert load_dataset(tmp_path / "write_yolo", "train").category_ids == (0, 1)


def test_the_parent_category_of_roboflow_is_left_out_unless_an_object_has_it(tmp_path):
    source = write_roboflow(tmp_path)
    assert load_dataset(source, "val").category_ids == (1, 2)
    assert "'animals' (id 0)" in describe_data(source, {"val": 1})
    file = source / "train" / "_annotations.coco.json"
    contents = json.loads(file.read_text())
    contents["annotations"][0]["category_id"] = 0
    file.write_text(json.dumps(contents))
    assert load_dataset(source, "val").category_ids == (0, 1, 2)
    assert "animals" not in describe_data(source, {"val": 1})


def test_difficult_objects_of_voc_are_left_out_of_training(tmp_path):
    source = write_voc(tmp_path)
    file = source / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("</name>", "</name><difficult>1</difficult>"))
    train = load_dataset(source, "train")
    assert train.arrays["ignore"].tolist() == [True, False]
    assert train.left_out()["objects flagged 'ignore'"] == 1


def test_lists_of_yolo_images(tmp_path):
    source = write_yolo(tmp_path)
    (source / "train.txt").write_text("./images/train/b.png\nimages/train/a.png\n")
    text = (source / "data.yaml").read_text().replace("train: images/train", "train: train.txt")
    (source / "data.yaml").write_text(text)
    train = load_dataset(source, "train")
    assert train.file_names == ["images/train/a.png", "images/train/b.png"]
    assert len(train.arrays["ids"]) == 2


@pytest.mark.parametrize(
    ("spoil", "facts"),
    [
        (lambda root: write_voc(write_yolo(root)), r"ambiguous.*Pascal VOC.*YOLO \(data\.yaml\)"),
        (lambda root: write_coco(write_roboflow(root)), "ambiguous.*COCO.*Roboflow"),
        (lambda root: write_json(write_coco(root, "a_{}.json") / "annotations/b_train.json", {}), "a_train.*b_train"),
        (
            lambda root: save_image(write_coco(root, "a_{}.json", "images/{}") / "training/a.png"),
            "training, images/train",
        ),
        (lambda root: shutil.rmtree(write_roboflow(root) / "train"), "no train folder.*valid/"),
        (lambda root: shutil.copytree(write_roboflow(root) / "train", root / "training"), "two train.*training"),
        (lambda root: write_yolo(root, "val: images/val\nnames: [cat, dog]\n"), r"data\.yaml: key 'train' is missing"),
        (lambda root: write_yolo(root, "train: images/nowhere\nnames: [cat, dog]\n"), "nowhere does not exist"),
        (lambda root: write_yolo(root, "train: images/train\nnames: [cat, cat]\n"), "'names'.*twice"),
        (lambda root: write_yolo(root, "train: images/train\nnames: [cat, no]\n"), "'names'.*False.*quotes"),
        (lambda root: write_yolo(root, "train: images/train\nnames: [cat]\nnc: 3\n"), "'nc' is 3"),
        (lambda root: write_yolo(root, "train: images/train\nnames: [cat, dog\n"), r"data\.yaml.*YAML"),
        (lambda root: write_yolo(root, "train: /etc\nnames: [cat, dog]\n"), "'/etc' is outside"),
        (lambda root: write_yolo(root, "train: ../..\nnames: [cat, dog]\n"), "outside"),
        (lambda root: (write_yolo(root) / "labels/train/a.txt").write_text("0 1 2\n"), r"a\.txt: line 1: 2 numbers"),
        (lambda root: (write_yolo(root) / "labels/train/a.txt").write_text("\n5 0 0 1 1\n"), "line 2: class 5"),
        (lambda root: (write_yolo(root) / "labels/train/a.txt").write_text("0 9 9 30 30\n"), "line 1.*fractions"),
        (lambda root: (write_yolo(root) / "labels/train/a.txt").write_text("0 nan 0 1 1\n"), "line 1.*fractions"),
        (lambda root: (write_yolo(root) / "images/train/a.txt").write_text(""), "two label files"),
        (lambda root: shutil.rmtree(write_yolo(root) / "labels"), "has a label file"),
        (lambda root: (write_voc(root) / "ImageSets/Main/train.txt").unlink(), r"no list.*train.*val\.txt"),
        (lambda root: (write_voc(root) / "ImageSets/Main/train.txt").write_text("../a\n"), "'../a' is outside"),
        (lambda root: (write_voc(root) / "Annotations/a.xml").unlink(), r"a\.xml: No such file"),
        (lambda root: (write_voc(root) / "Annotations/a.xml").write_text("<annotation>"), r"a\.xml.*XML"),
        (lambda root: write_split_yaml(root).unlink(), "no train annotation file"),
    ],
)
def test_ambiguous_incomplete_and_wrong_files_are_told(spoil, facts, tmp_path):
    spoil(tmp_path / "set")
    with pytest.raises(UserError, match=facts) as error:
        load_dataset(tmp_path / "set", "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("train: {annotations: sets/annotations/train/labels.json}", "'train.images' must be a path"),
        ("train: {annotations: a.json, images: ../..}\nvalid: {}", "'valid' does not exist; did you mean 'val'"),
        ("train: {annotations: /etc/passwd, images: sets}", "'/etc/passwd' is outside"),
        ("train: {annotations: nowhere.json, images: sets}", "no file .*nowhere.json"),
        ("learning_rate: 1", "describes no dataset"),
    ],
)
def test_faults_of_a_yaml_of_files_name_the_key(text, facts, tmp_path):
    file = write_split_yaml(tmp_path)
    file.write_text(text)
    with pytest.raises(UserError, match=facts):
        load_dataset(file, "train")


def test_a_yaml_file_selects_one_of_two_layouts(tmp_path):
    source = write_voc(write_yolo(tmp_path))
    assert load_dataset(source / "data.yaml", "train").category_ids == (0, 1)


def test_voc_does_not_read_outside_of_the_dataset(tmp_path):
    source = write_voc(tmp_path / "set")
    save_image(tmp_path / "secret.png")
    (source / "JPEGImages" / "a.png").unlink()
    file = source / "Annotations" / "a.xml"
    for name in ("../../secret.png", str(tmp_path / "secret.png"), r"..\..\secret.png"):
        file.write_text(file.read_text().replace("<filename>a.png", f"<filename>{name}"))
        with pytest.raises(UserError, match=r"a\.xml.*outside"):
            load_dataset(source, "train")


def test_entities_and_deep_trees_of_xml_are_refused(tmp_path):
    source = write_voc(tmp_path)
    file = source / "Annotations" / "a.xml"
    text = file.read_text()
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]>'
    for content in (bomb + text.replace("dog", "&b;"), bomb + text, "<a>" * 60 + "</a>" * 60):
        file.write_text(content)
        with pytest.raises(UserError, match=r"a\.xml: not readable as XML"):
            load_dataset(source, "train")
    file.write_text(" " * 2**22 + text)
    with pytest.raises(UserError, match=r"a\.xml: larger than"):
        load_dataset(source, "train")
    file.write_text(text.replace("<xmin>11.5", "<xmin>NaN"))
    with pytest.raises(UserError, match=r"a\.xml: object 1: 'bndbox/xmin' is 'NaN'"):
        load_dataset(source, "train")


def test_roboflow_index_is_cached_without_its_parent_category(tmp_path, monkeypatch):
    monkeypatch.setattr("afictl.data.index_cache.MIN_FILE_BYTES", 0)
    source = write_roboflow(tmp_path)
    direct = load_dataset(source, "train")
    assert (source / "train" / "_annotations.coco.json.afictl-index").is_file()
    again = load_dataset(source, "train")
    assert again.classes == direct.classes == ("cat", "dog")
    assert content_fingerprint(again) == content_fingerprint(direct)


class TestConversion:
    @pytest.fixture
    def data(self, tmp_path):
        """A random dataset in COCO's layout: boxes, polygons, a crowd region, and an image without objects."""
        generator = np.random.default_rng(0)
        for split in ("train", "val"):
            images = [{"id": 3 * k, "file_name": f"{split}{k}.png", "width": 64, "height": 48} for k in (4, 1, 2)]
            objects = []
            for k in range(12):
                x, y, w, h = (float(v) for v in generator.uniform((0, 0, 1, 1), (40, 30, 24, 18)))
                record = {"id": 90 - k, "image_id": images[k % 2]["id"], "category_id": 5 + 2 * (k % 3)}
                objects.append({**record, "bbox": [x, y, w, h], "ignore": int(k == 5)})
                if k % 3 == 0:
                    objects[-1]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            names = [{"id": 5 + 2 * k, "name": name} for k, name in enumerate(("zebra", "no", "a b"))]
            contents = {"images": images, "annotations": objects, "categories": names}
            write_json(tmp_path / "data" / "annotations" / f"instances_{split}.json", contents)
            for image in images:
                save_image(tmp_path / "data" / split / image["file_name"])
        return tmp_path / "data"

    @pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
    def test_round_trip_keeps_what_both_formats_hold(self, data, form, tmp_path):
        convert_dataset(data, tmp_path / "there", form)
        convert_dataset(tmp_path / "there", tmp_path / "back", "coco")
        for split in ("train", "val"):
            original, back = load_dataset(data, split), load_dataset(tmp_path / "back", split)
            assert set(back.file_names) == set(original.file_names)
            assert set(back.classes) == set(original.classes)
            for i, name in enumerate(original.file_names):
                k = back.file_names.index(name)
                keep = ~original.arrays["ignore"][slice(*original.arrays["object_ends"][i : i + 2])].numpy()
                first, second = original.objects(i), back.objects(k)
                keep = keep if form == "yolo" else np.ones_like(keep)
                assert [original.classes[n - 1] for n in first.labels[keep]] == [
                    back.classes[n - 1] for n in second.labels
                ]
                np.testing.assert_allclose(first.boxes[keep], second.boxes, atol=1e-5)
                if form != "voc":
                    polygons = [p for p, use in zip(first.segmentations, keep, strict=True) if use]
                    assert [p is None for p in polygons] == [p is None for p in second.segmentations]
                    for one, other in zip(polygons, second.segmentations, strict=True):
                        np.testing.assert_allclose(one or [], other or [], atol=1e-5)
            if form != "yolo":
                assert sorted(original.arrays["ignore"].tolist()) == sorted(back.arrays["ignore"].tolist())
            if form == "voc":  # written as decimal numbers
                rows = [sorted(d.arrays["xywh"].tolist()) for d in (original, back)]
                assert rows[0] == rows[1]

    def test_formats_are_those_of_their_programs(self, data, tmp_path):
        convert_dataset(data, tmp_path / "yolo", "yolo")
        words = (tmp_path / "yolo/labels/train/train4.txt").read_text().split("\n")[0].split()
        assert words[0] == "0"
        assert len(words) == 9
        assert (tmp_path / "yolo/labels/train/train2.txt").read_text() == ""
        convert_dataset(data, tmp_path / "voc", "voc")
        assert (tmp_path / "voc/ImageSets/Main/val.txt").read_text() == "val4\nval1\nval2\n"
        assert "<difficult>1</difficult>" in (tmp_path / "voc/Annotations/train1.xml").read_text()

    def test_images_are_linked_or_copied(self, data, tmp_path):
        linked = convert_dataset(data, tmp_path / "linked", "yolo")
        copied = convert_dataset(data, tmp_path / "copied", "yolo", copy=True)
        assert (linked.linked, linked.copied, copied.linked, copied.copied) == (6, 0, 0, 6)
        assert os.path.samefile(data / "val/val1.png", tmp_path / "linked/images/val/val1.png")
        assert not os.path.samefile(data / "val/val1.png", tmp_path / "copied/images/val/val1.png")

    def test_what_a_format_has_no_form_for_is_counted(self, data, tmp_path):
        assert convert_dataset(data, tmp_path / "yolo", "yolo").changes == {
            "objects flagged 'iscrowd' or 'ignore' are left out": 2
        }
        file = data / "annotations/instances_train.json"
        contents = json.loads(file.read_text())
        contents["annotations"][1]["iscrowd"] = 1
        contents["annotations"][2]["bbox"] = [-5, 10, 20, 20]
        contents["annotations"][3]["segmentation"] *= 2
        contents["annotations"][4]["segmentation"] = {"size": [48, 64], "counts": [0, 10, 48 * 64 - 10]}
        file.write_text(json.dumps(contents))
        conversion = convert_dataset(data, tmp_path / "again", "yolo")
        assert sorted(conversion.changes.values()) == [1, 1, 1, 3]
        train = load_dataset(tmp_path / "again", "train")
        assert [0.0, 10.0, 15.0, 20.0] in np.round(train.arrays["xywh"].numpy(), 9).tolist()

    def test_images_of_one_name_in_several_splits_get_folders_in_voc(self, tmp_path):
        data = write_coco(tmp_path / "data")
        shutil.copy(data / "val/c.png", data / "val/a.png")
        file = data / "annotations/instances_val.json"
        file.write_text(file.read_text().replace("c.png", "a.png"))
        convert_dataset(data, tmp_path / "voc", "voc")
        assert load_dataset(tmp_path / "voc", "val").file_names == ["val/a.png"]

    def test_nothing_is_left_after_an_error(self, data, tmp_path):
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "file").write_text("mine")
        with pytest.raises(UserError, match="used is in use"):
            convert_dataset(data, tmp_path / "used", "yolo")
        with pytest.raises(UserError, match=r"--to yollo.*'yolo'"):
            convert_dataset(data, tmp_path / "out", "yollo")
        (data / "val" / "val1.png").unlink()
        with pytest.raises(UserError, match=r"val1\.png does not exist"):
            convert_dataset(data, tmp_path / "out", "yolo")
        file = data / "annotations/instances_train.json"
        file.write_text(file.read_text().replace("train4.png", "../train4.png"))
        with pytest.raises(UserError, match="leaves the image folder"):
            convert_dataset(data, tmp_path / "out", "coco")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "used"]
        assert (tmp_path / "used" / "file").read_text() == "mine"


def test_a_folder_without_files_is_told_by_its_own_layout(tmp_path):
    assert find_layout(tmp_path).splits == []
    with pytest.raises(UserError, match="no val annotation file"):
        find_split(tmp_path, "val")
    with pytest.raises(UserError, match="split 'dev' does not exist"):
        find_split(tmp_path, "dev")
