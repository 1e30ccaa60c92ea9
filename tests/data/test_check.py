import json
import os
import signal

import numpy as np
import pytest
from PIL import Image

from afictl.data import load_dataset
from afictl.data.check import check_split, splits_to_check
from afictl.data.formats.coco_records import read_instances
from afictl.data.image_listing import require_images
from afictl.errors import UserError
from tests.data.conftest import SQUARE


def locations(report, rule):
    return [str(location) for location in report.findings.get(rule, [])]


def test_check_reports_every_annotation_fault_at_once(write_coco):
    half = {"size": [48, 64], "counts": [0, 48 * 32, 48 * 32]}
    objects = [
        {},
        {"iscrowd": 1, "segmentation": half},
        {"bbox": [50, 30, 30, 10]},
        {"bbox": [100, 100, 5, 5]},
        {"bbox": [5, 5, 0, 5]},
        {"segmentation": []},
        {"segmentation": half},
        {"segmentation": [[1, 2, 3, 4]]},
        {"id": 1},
        {"image_id": 77},
        {"category_id": 77},
        {"bbox": "big"},
        {"image_id": 3, "iscrowd": 1, "segmentation": None},
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 9, "name": "again"}]
    data = write_coco(objects, images=[{}, {}, {}, {"id": 2}], categories=categories)
    report = check_split(data, "train")
    findings = {rule: locations(report, rule) for rule in report.findings}
    assert findings == {
        "malformed-record": [
            "annotation 12: annotations[11] of image 1: 'bbox' is 'big', not four numbers x, y, width, height"
        ],
        "duplicate-category": ["categories[2] id 9"],
        "duplicate-image": ["4.png: images[3] id 2"],
        "duplicate-annotation": ["annotation 1: annotations[8] of image 1"],
        "unknown-image": ["annotation 10: image_id 77"],
        "unknown-category": ["1.png annotation 11: category_id 77"],
        "crowd": ["1.png annotation 2", "3.png annotation 13"],
        "box-without-area": ["1.png annotation 5: bbox [5, 5, 0, 5] in 64x48"],
        "box-outside": ["1.png annotation 4: bbox [100, 100, 5, 5] in 64x48"],
        "mask-missing": ["1.png annotation 6"],
        "mask-malformed": ["1.png annotation 8: 'segmentation' has no polygon of at least three points"],
        "mask-far": ["1.png annotation 3: mask [10.0, 10.0, 30.0, 30.0] (x1, y1, x2, y2), bbox [50, 30, 30, 10]"],
        "box-partly-outside": ["1.png annotation 3: bbox [50, 30, 30, 10] in 64x48"],
        "category-gaps": ["2 categories with ids 1 to 9"],
        "category-unused": ["dog (id 9)"],
        "duplicate-object": [f"1.png annotation {k}: same as annotation 1" for k in (6, 7, 8)],
        "empty-image": ["2.png"],
        "image-without-usable": ["3.png"],
    }
    assert report.masks == {"polygons": 4, "RLE": 2, "absent": 2, "malformed": 1}
    assert report.histogram == {"cat": 5, "dog": 0}
    assert (report.usable_objects, report.usable_images) == (5, 1)
    assert len(report.fatal) == 6


def test_copies_of_an_object_are_a_finding(write_coco, monkeypatch):
    """Crowd regions, other classes and other images are none."""
    objects = [{}, {"bbox": [10.0, 10, 20, 20.0]}, {"category_id": 2}, {"image_id": 2}, {"iscrowd": 1}, {}]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    report = check_split(write_coco(objects, images=[{}, {}]), "train")
    expected = ["1.png annotation 2: same as annotation 1", "1.png annotation 6: same as annotation 1"]
    assert locations(report, "duplicate-object") == expected
    assert locations(report, "large-image") == ["1.png: 64x48 pixels", "2.png: 64x48 pixels"]
    assert not report.fatal


def test_check_reports_every_image_file_fault(write_coco):
    names = ["good", "missing", "cut", "text", "size", "displayed", "stored"]
    names += ["grey", "cmyk", "palette", "alpha", "deep"]
    files = {name: f"{name}.{'jpg' if name in ('cut', 'displayed', 'stored', 'cmyk') else 'png'}" for name in names}
    images = [{"file_name": files[name]} for name in names]
    images[names.index("displayed")] |= {"width": 48, "height": 64}
    data = write_coco([{"image_id": k + 1} for k in range(len(names))], images=images)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    rotated = Image.Exif()
    rotated[0x0112] = 8
    folder = data / "train"
    (folder / files["missing"]).unlink()
    noise.save(folder / files["cut"], quality=95)
    content = (folder / files["cut"]).read_bytes()
    (folder / files["cut"]).write_bytes(content[: len(content) // 2])
    (folder / files["text"]).write_text("no image")
    noise.resize((32, 24)).save(folder / files["size"])
    for name in ("displayed", "stored"):
        noise.save(folder / files[name], exif=rotated)
    for name, mode in (("grey", "L"), ("cmyk", "CMYK"), ("palette", "P"), ("alpha", "RGBA")):
        noise.convert(mode).save(folder / files[name])
    Image.fromarray(np.zeros((48, 64), dtype=np.uint16)).save(folder / files["deep"])
    report = check_split(data, "train")
    files_by_rule = {rule: [location.file for location in findings] for rule, findings in report.findings.items()}
    assert files_by_rule == {
        "missing-file": ["missing.png"],
        "unreadable-file": ["cut.jpg", "text.png"],
        "wrong-size": ["size.png"],
        "exif-followed": ["displayed.jpg"],
        "exif-ignored": ["stored.jpg"],
        "grey": ["grey.png"],
        "cmyk": ["cmyk.jpg"],
        "palette": ["palette.png"],
        "transparent": ["alpha.png"],
        "deep": ["deep.png"],
        "category-unused": [None],
    }
    assert locations(report, "wrong-size") == ["size.png: 32x24 pixels, annotated 64x48"]
    assert set(report.fatal) == {"missing-file", "unreadable-file", "wrong-size"}
    assert check_split(data, "train", images=False).fatal == []


def test_every_record_of_a_shared_image_file_is_checked(write_coco):
    image = {"file_name": "shared.png"}
    data = write_coco([{}, {"image_id": 2}], images=[image | {"width": 32}, image])
    report = check_split(data, "train")
    assert locations(report, "duplicate-file") == ["shared.png: image ids 1, 2"]
    assert locations(report, "wrong-size") == ["shared.png: 64x48 pixels, annotated 32x48"]


def test_duplicate_category_names_are_fatal(write_coco):
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 5, "name": "cat"}]
    report = check_split(write_coco([{}], categories=categories), "train")
    assert locations(report, "duplicate-name") == ["cat (ids 1, 5)"]
    assert report.fatal == ["duplicate-name"]


def test_flags_are_findings(write_coco):
    objects = [{"iscrowd": float("nan")}, {"ignore": "1"}, {"difficult": 1}, {"ignore": 0, "difficult": 0}, {}]
    objects = [{"bbox": [10, 10, 20, 20 - k], **record} for k, record in enumerate(objects)]
    report = check_split(write_coco(objects), "train")
    findings = {rule: locations(report, rule) for rule in report.findings if rule != "category-unused"}
    assert findings == {
        "unusual-flag": ["1.png annotation 1: iscrowd nan", "1.png annotation 2: ignore '1'"],
        "ignore": ["1.png annotation 2"],
        "difficult": ["1.png annotation 3"],
    }
    assert report.usable_objects == 4
    assert not report.fatal


@pytest.mark.parametrize(("ids", "has_gaps"), [([0, 1], False), ([1, 2], False), ([5, 6], False), ([0, 2], True)])
def test_only_absent_category_ids_are_gaps(write_coco, ids, has_gaps):
    categories = [{"id": ids[0], "name": "cat"}, {"id": ids[1], "name": "dog"}]
    report = check_split(write_coco([{"category_id": k} for k in ids], categories=categories), "train")
    assert ("category-gaps" in report.findings) == has_gaps


def test_masks_that_training_cannot_use_are_findings(write_coco):
    nothing = {"size": [48, 64], "counts": [48 * 64]}
    objects = [
        {},
        {"segmentation": SQUARE[0]},
        {"segmentation": nothing},
        {"segmentation": [[10, 10, 30, 10.1, 10, 10]]},
        {"segmentation": [[50, 10, 60, 10, 60, 30, 50, 30]]},
        {"segmentation": [[-20, 10, 30, 10, 30, 30, -20, 30]]},
        {"segmentation": [[80, 10, 99, 10, 99, 30]]},
        {"segmentation": float("nan")},
        {"segmentation": "mask"},
        {"segmentation": [[[10, 10], [30, 10], [30, 30]]]},
        {"segmentation": [None]},
    ]
    data = write_coco(objects)
    report = check_split(data, "train")
    findings = {rule: locations(report, rule) for rule in report.findings if rule.startswith("mask")}
    assert findings == {
        "mask-missing": ["1.png annotation 8"],
        "mask-malformed": [
            "1.png annotation 9: 'segmentation' is 'mask', neither a run-length mask nor polygons "
            "[[x1, y1, x2, y2, ...], ...]",
            "1.png annotation 10: 'segmentation' has points as pairs [x, y]; write each polygon as one flat list "
            "[x1, y1, x2, y2, ...]",
            "1.png annotation 11: 'segmentation' has a polygon that is not pairs of x and y in pixels of its 64x48 "
            "image",
        ],
        "mask-empty": ["1.png annotation 3", "1.png annotation 4", "1.png annotation 7"],
        "mask-far": ["1.png annotation 5: mask [50.0, 10.0, 60.0, 30.0] (x1, y1, x2, y2), bbox [10, 10, 20, 20]"],
        "mask-flat": ["1.png annotation 2"],
        "mask-partly-outside": ["1.png annotation 6: x1, y1, x2, y2 [-20.0, 10.0, 30.0, 30.0]"],
    }
    dataset = load_dataset(data, "train")
    assert dataset.training_objects(0, masks=True).ids.tolist() == [1, 2, 6]
    assert dataset.left_out(masks=True) == {
        "objects without a mask": 4,
        "objects with a mask without a pixel": 3,
        "objects with a mask far from the box": 1,
    }


@pytest.mark.parametrize(
    ("segmentation", "detail"),
    [
        ([None], "not pairs of x and y"),
        ([1, [2, 3]], "not pairs of x and y"),
        ([True, False, True, False, True, False], "not pairs of x and y"),
        ([["10", "10", "30", "10", "30", "30"]], "not pairs of x and y"),
        ([[10, 10, 10**400, 30, 10, 30]], "not pairs of x and y"),
        ([{"size": [48, 64], "counts": [48 * 64]}], "not pairs of x and y"),
        ([[10, 10], [30, 10], [30, 30]], "points as pairs"),
        ({"size": [64, 48], "counts": [48 * 64]}, "'size' is [64, 48]"),
        ({"counts": [48 * 64]}, "'size' is None"),
        ({"size": [48, 64], "counts": "b'PP1'"}, "text b'...' of Python's bytes"),
        ({"size": [48, 64], "counts": [48 * 64 - 1]}, "do not fill"),
    ],
)
def test_segmentation_of_any_value_is_described_and_no_mask(write_coco, segmentation, detail):
    data = write_coco([{}, {"segmentation": segmentation}])
    (location,) = locations(check_split(data, "train"), "mask-malformed")
    assert detail in location
    assert location.startswith("1.png annotation 2: ")
    assert load_dataset(data, "train").training_objects(0, masks=True).ids.tolist() == [1]


def test_polygon_that_is_left_out_of_a_mask_is_a_finding(write_coco):
    data = write_coco([{"segmentation": [*SQUARE, [10, 10, float("nan"), 10, 20, 20]]}])
    assert len(locations(check_split(data, "train"), "mask-part-malformed")) == 1
    (outline,) = load_dataset(data, "train").training_objects(0, masks=True).segmentations
    assert len(outline) == 1


def test_areas_that_mean_something_else_are_findings(write_coco):
    report = check_split(write_coco([{"area": float("inf")}, {"area": -1}, {"area": 0}, {"area": 400}]), "train")
    assert locations(report, "area-out-of-range") == ["1.png annotation 1: area inf", "1.png annotation 2: area -1"]
    assert "areas-implausible" not in report.findings
    assert not report.fatal
    (text,) = locations(check_split(write_coco([{"area": 400 / 64 / 48}] * 3), "train"), "areas-implausible")
    assert "3 of 3 areas look like fractions" in text


@pytest.mark.parametrize(
    ("change", "rule", "meaning"),
    [
        (lambda x, y, w, h: {"bbox": [x / 64, y / 48, w / 64, h / 48]}, "boxes-implausible", "fractions"),
        (lambda x, y, w, h: {"bbox": [x, y, x + w, y + h]}, "boxes-implausible", "corners x1, y1, x2, y2"),
        (lambda x, y, w, h: {"bbox": [x + w / 2, y + h / 2, w, h]}, "boxes-implausible", "centre"),
        (lambda x, y, w, h: {"bbox": [x, x + w, y, y + h]}, "boxes-implausible", "corners x1, x2, y1, y2"),
        (
            lambda x, y, w, h: {"segmentation": [[v / 2 for v in (x, y, x + w, y, x + w, y + h)]]},
            "masks-implausible",
            "0.5 times",
        ),
    ],
)
def test_distributions_that_mean_something_else_stop_training(write_coco, change, rule, meaning):
    boxes = [[2, 3, 20, 15], [30, 5, 25, 20], [8, 20, 30, 24], [40, 28, 20, 18], [22, 12, 18, 30]]
    objects = [
        {"bbox": box, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]} | change(x, y, w, h)
        for box in boxes
        for x, y, w, h in [box]
    ]
    report = check_split(write_coco(objects), "train")
    assert report.fatal == [rule]
    (text,) = locations(report, rule)
    assert meaning in text


def test_names_that_no_file_can_have_are_findings(write_coco):
    """A name that is too long, and one in another Unicode form than the file, as archives from macOS have."""
    images = [{}, {"file_name": "caf\u00e9.png"}, {}]
    data = write_coco([{}], images=images)
    for split in ("train", "val"):
        (data / split / "caf\u00e9.png").rename(data / split / "cafe\u0301.png")
        file = data / "annotations" / f"instances_{split}.json"
        contents = json.loads(file.read_text())
        contents["images"][2]["file_name"] = "x" * 5000
        file.write_text(json.dumps(contents))
    report = check_split(data, "val")
    (missing,), (unreadable,) = locations(report, "missing-file"), locations(report, "unreadable-file")
    assert "Unicode form NFD" in missing
    assert "File name too long" in unreadable
    with pytest.raises(UserError, match=r"2 of its 3 images"):
        require_images(load_dataset(data, "val"))


def test_only_the_first_frame_is_read_and_a_turned_tiff_is_as_annotated(write_coco):
    images = [{"file_name": name} for name in ("pages.tif", "stored.tif", "displayed.tif")]
    data = write_coco([{}], images=[*images[:2], {**images[2], "width": 48, "height": 64}])
    turned = Image.Exif()
    turned[0x0112] = 6
    first, second = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    first.save(data / "train" / "pages.tif", save_all=True, append_images=[second])
    for name in ("stored.tif", "displayed.tif"):
        first.save(data / "train" / name, exif=turned)
    report = check_split(data, "train")
    assert not report.fatal
    assert locations(report, "several-frames") == ["pages.tif: 2 frames"]
    assert locations(report, "exif-ignored") == ["stored.tif"]
    assert locations(report, "exif-followed") == ["displayed.tif"]


def test_val_is_compared_with_train(write_coco):
    data = write_coco([{}], images=[{}, {}, {}])
    Image.new("RGB", (64, 48), "red").save(data / "val" / "2.png")
    (data / "train" / "3.png").unlink()
    report = check_split(data, "val")
    assert locations(report, "file-in-train") == ["1.png"]
    assert not report.fatal
    file = data / "annotations" / "instances_val.json"
    contents = json.loads(file.read_text())
    contents["categories"] = [{"id": 1, "name": "Dog"}, {"id": 2, "name": "cat"}]
    file.write_text(json.dumps(contents))
    report = check_split(data, "val")
    train_file = data / "annotations" / "instances_train.json"
    assert locations(report, "category-ids-differ") == [f"cat: id 2, in {train_file} 1"]
    assert locations(report, "classes-differ") == [f"'Dog' is not in {train_file}", f"'dog' is only in {train_file}"]
    assert report.fatal == ["classes-differ"]
    train_file.write_text("[")
    assert not check_split(data, "val").fatal


def test_unusable_annotation_file_is_a_finding(write_coco):
    data = write_coco([{}])
    (data / "annotations" / "instances_val.json").write_text("[1")
    (unreadable,) = locations(check_split(data, "val"), "annotation-file")
    assert "instances_val.json: " in unreadable
    assert "JSON" in unreadable
    (data / "annotations" / "instances_val.json").unlink()
    (missing,) = locations(check_split(data, "val"), "annotation-file")
    assert "no val annotation file" in missing


def test_no_usable_object_is_fatal_for_train_only(write_coco):
    data = write_coco([{"iscrowd": 1}])
    assert check_split(data, "train").fatal == ["no-usable-object"]
    assert check_split(data, "val").fatal == []


def test_data_without_masks_pass_the_check(write_coco):
    report = check_split(write_coco([{"segmentation": []}, {"segmentation": None, "category_id": 2}]), "train")
    assert set(report.findings) == {"no-masks"}
    assert not report.fatal


@pytest.mark.parametrize(
    "fault",
    [
        {"objects": [{"bbox": [1, 2, 3]}]},
        {"objects": [{"id": 3}, {"id": 3}]},
        {"objects": [{"category_id": 8}]},
        {"objects": [{"image_id": None}]},
        {"objects": [{"area": "large"}]},
        {"objects": [{}], "images": [{}, {"id": 1}]},
        {"objects": [], "categories": []},
        {"objects": [], "categories": [{"id": 1, "name": ""}]},
        {"objects": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]},
    ],
)
def test_faults_that_loading_refuses_are_fatal(write_coco, fault):
    data = write_coco(**fault)
    with pytest.raises(UserError):
        load_dataset(data, "val")
    assert check_split(data, "val").fatal


@pytest.mark.parametrize("name", ["coco-mini", "bccd"])
def test_counts_of_real_data_equal_those_of_loading(shared_data, name):
    report = check_split(shared_data / name, "train", images=False)
    dataset = load_dataset(shared_data / name, "train")
    objects = read_instances(dataset.annotation_file)["annotations"]
    assert report.usable_images == len(dataset.training_images())
    assert report.usable_objects == sum(len(dataset.training_objects(i).ids) for i in range(len(dataset)))
    assert report.usable_objects + dataset.left_out().get("objects flagged 'iscrowd'", 0) == len(objects)
    assert bool(report.findings.get("no-masks")) is not dataset.has_masks


def test_all_selects_existing_splits(write_coco, shared_data):
    assert splits_to_check(write_coco([{}]), "all") == ["train", "val"]
    assert splits_to_check(shared_data / "bccd", "all") == ["train", "val", "test"]
    with pytest.raises(UserError, match="--split dev"):
        splits_to_check(shared_data / "bccd", "dev")
    with pytest.raises(UserError, match="nothing"):
        splits_to_check(shared_data / "nothing", "all")


def test_report_is_json_serializable(write_coco):
    report = check_split(write_coco([{"bbox": [60, 0, 20, 10], "segmentation": SQUARE}]), "train")
    plain = json.loads(json.dumps(report.as_json()))
    assert plain["findings"]["box-partly-outside"]["places"][0]["annotation_id"] == 1
    assert plain["findings"]["box-partly-outside"]["effect"] == "mends"
    assert plain["fatal"] == []


@pytest.mark.timeout(60)
def test_check_names_files_that_are_no_images_and_unclear_orientations(write_coco, tmp_path):
    names = ["pipe.png", "phone.png", "mirrored.png", "square.png", "../outside.png", "broken.png"]
    data = write_coco([{}], images=[{"file_name": name, "width": 64, "height": 64} for name in names])
    folder = data / "val"
    for name in ("pipe.png", "broken.png"):
        (folder / name).unlink()
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "phone.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    tags = Image.Exif()
    for name, orientation in (("mirrored.png", 2), ("square.png", 6)):
        tags[0x0112] = orientation
        Image.new("RGB", (64, 64)).save(folder / name, exif=tags)
    report = check_split(data, "val")
    assert locations(report, "exif-unclear") == ["mirrored.png: orientation 2", "square.png: orientation 6"]
    assert locations(report, "file-outside") == ["../outside.png"]
    assert locations(report, "missing-file") == ["broken.png: is a link to nowhere.png, which does not exist"]
    pipe, phone = locations(report, "unreadable-file")
    assert "named pipe" in pipe
    assert "HEIC" in phone
    assert {"file-outside", "missing-file", "unreadable-file"} <= set(report.fatal)


def test_killed_reading_process_is_one_error(write_coco, monkeypatch):
    data = write_coco([{}], images=[{}] * 3)
    monkeypatch.setattr("afictl.data.check_images.image_findings", kill_this_process)
    with pytest.raises(UserError, match=r"val: a reading process was killed after 0 of 3 .*1\.png.*--no-images"):
        check_split(data, "val")


def kill_this_process(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("value", [5.5, [1], ["x" * 10_000], {"a": [[]]}, None, float("nan")])
def test_records_of_any_values_are_findings_of_one_line(write_coco, value):
    data = write_coco([{"id": value, "image_id": value}, {"bbox": value}, {}], images=[{}, {}])
    file = data / "annotations" / "instances_train.json"
    contents = json.loads(file.read_text())
    contents["images"][1] = {"id": value, "file_name": value, "width": value}
    file.write_text(json.dumps(contents))
    report = check_split(data, "train", images=False)
    assert len(report.findings["malformed-record"]) == 3
    assert all(len(str(location)) < 300 for location in report.findings["malformed-record"])
    json.dumps(report.as_json())


@pytest.mark.parametrize(
    ("sections", "objects", "findings"),
    [
        ({"categories": []}, [{}], {"annotation-file": 1}),
        ({"categories": [{"id": 1}]}, [{}, {}], {"malformed-record": 1, "duplicate-object": 1}),
        ({}, [{"bbox": None}], {"malformed-record": 1}),
        ({}, [{"category_id": 7}], {"unknown-category": 1}),
    ],
)
def test_one_cause_is_one_finding(write_coco, sections, objects, findings):
    """No image, category or file counts as empty for objects whose own fault is named."""
    objects = [*objects, *({"category_id": k, "image_id": 2} for k in (1, 2))] if not sections else objects
    data = write_coco(objects, images=[{}, {}], **sections)
    report = check_split(data, "train", images=False)
    assert {rule: len(places) for rule, places in report.findings.items() if rule != "empty-image"} == findings
    assert "1.png" not in locations(report, "empty-image")


def test_a_file_without_images_has_one_finding(write_coco):
    data = write_coco([{}])
    file = data / "annotations" / "instances_train.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "images": []}))
    assert check_split(data, "train").fatal == ["annotation-file"]


def test_objects_of_a_malformed_image_are_not_of_an_unknown_one(write_coco):
    data = write_coco([{}, {"category_id": 2}], images=[{}, {}])
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    content["images"][0]["height"] = "48 px"
    file.write_text(json.dumps(content))
    report = check_split(data, "train", images=False)
    assert report.fatal == ["malformed-record"]
    assert locations(report, "empty-image") == ["2.png"]
    assert "category-unused" not in report.findings


def test_a_malformed_class_is_not_missing_in_the_other_split(write_coco):
    data = write_coco([{}])
    file = data / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace('"dog"', '""'))
    assert check_split(data, "train", images=False).fatal == ["malformed-record"]
    assert not check_split(data, "val", images=False).fatal


def test_locations_are_one_line_without_sequences_of_a_terminal(write_coco):
    data = write_coco([{"bbox": [5, 5, 0, 5]}])
    file = data / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace("1.png", r"a\nb\u001b[31m.png"))
    (location,) = locations(check_split(data, "train", images=False), "box-without-area")
    assert location.startswith(r"a\nb\x1b[31m.png annotation 1")
