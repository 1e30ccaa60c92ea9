import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from afictl.data.annotations import pack_annotations
from afictl.data.formats import coco_fast
from afictl.data.formats.coco import read_annotations
from afictl.data.formats.coco_fast import read_fast
from afictl.data.formats.coco_records import read_carefully
from afictl.data.shapes import make_shapes
from afictl.errors import UserError
from tests.data.conftest import SQUARE

BITMAP = np.zeros((48, 64), dtype=np.uint8, order="F")
BITMAP[4:9, 7:20] = 1
PACKED = coco_mask.encode(BITMAP)["counts"].decode()


def assert_equal_readings(file):
    fast, careful = read_fast(file), read_carefully(file)
    assert fast is not None
    first, second = pack_annotations(fast), pack_annotations(careful)
    assert (first.classes, first.category_ids) == (second.classes, second.category_ids)
    assert first.arrays.keys() == second.arrays.keys()
    for name, values in first.arrays.items():
        assert values.dtype == second.arrays[name].dtype, name
        np.testing.assert_array_equal(values.numpy(), second.arrays[name].numpy(), err_msg=name)


@pytest.mark.parametrize("data", ["coco-mini", "bccd"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_readers_agree_on_real_data(shared_data, data, split):
    (file,) = (shared_data / data / "annotations").glob(f"instances_{split}*.json")
    assert_equal_readings(file)


@pytest.mark.parametrize("large_bytes", [coco_fast._LARGE_BYTES, 0])
def test_readers_agree_on_generated_data(tmp_path, monkeypatch, large_bytes):
    """Also where the objects are decoded in chunks."""
    monkeypatch.setattr(coco_fast, "_LARGE_BYTES", large_bytes)
    monkeypatch.setattr(coco_fast, "_CHUNK_OBJECTS", 3)
    folder = make_shapes(tmp_path / "shapes", train=4, val=2, size=96)
    assert_equal_readings(folder / "annotations" / "instances_train2017.json")


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"segmentation": None},
        {"segmentation": []},
        {"segmentation": {}},
        {"segmentation": {"size": [48, 64], "counts": PACKED}},
        {"segmentation": {"size": [48, 64], "counts": [100, 5, 48 * 64 - 105]}},
        {"segmentation": {"size": [48, 65], "counts": PACKED}},
        {"segmentation": [SQUARE[0], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]},  # too short, an odd number
        {"segmentation": [SQUARE[0], [1, 1, 9, 1, 9, 1e6]]},  # too far
        {"segmentation": [[], SQUARE[0], []]},
        {"segmentation": [SQUARE[0], "polygon", 5]},
        {"segmentation": [[*SQUARE[0], None, None]]},
        {"segmentation": [[*SQUARE[0], True, 4]]},
        {"segmentation": [[*SQUARE[0], "3", "4"]]},
        {"segmentation": [[*SQUARE[0], [3], 4]]},
        {"segmentation": "text \u00e9"},
        {"segmentation": 7, "caption": "not read \u732b"},
        {"area": None},
        {"area": 12.5, "iscrowd": 1},
        {"area": 2**70, "iscrowd": True},
        {"iscrowd": 0.5},
        {"iscrowd": None},
        {"iscrowd": "1", "ignore": ""},
        {"iscrowd": "nan", "ignore": True},
        {"ignore": 1.0},
        {"ignore": "false"},
        {"bbox": [1, 2.5, 1e3, -0.0]},
        {"bbox": [2**60 + 1, 0, 1, 1]},
        {"id": -5},
    ],
    ids=str,
)
def test_readers_agree_on_unusual_objects(write_coco, record):
    folder = write_coco([{"image_id": 2}, record, {"segmentation": SQUARE}], images=[{"id": 9}, {"id": 1}, {"id": 2}])
    assert_equal_readings(folder / "annotations" / "instances_train.json")


@pytest.mark.parametrize(
    ("record", "facts"),
    [
        ({"id": 7.5}, r"'id' .*7\.5"),
        ({"id": float("nan")}, "'id' .*nan"),
        ({"image_id": float("nan")}, "'image_id' .*nan"),
        ({"category_id": float("inf")}, "'category_id' .*inf"),
        ({"id": 2.0**60}, "'id' .*"),
        ({"id": 2**63}, f"'id' .*{2**63}"),
        ({"id": -(2**63)}, f"'id' .*{-(2**63)}"),
        ({"id": True}, "'id' .*True"),
        ({"id": 3}, "id 3.*twice"),
        ({"image_id": 5}, "image_id 5"),
        ({"category_id": -1}, "category_id -1"),
        ({"bbox": [1, 2, 3]}, "'bbox'"),
        ({"area": "12"}, "'area' .*'12'"),
        ({"area": 10**400}, "'area' "),
        ({"iscrowd": "no"}, "'iscrowd' .*'no'"),
        ({"iscrowd": [1]}, "'iscrowd' .*1"),
        ({"ignore": "perhaps"}, "'ignore' .*perhaps"),
        ({"bbox": [1, 2, 10**400, 4]}, "'bbox' "),
        ({"bbox": [True, 2, 3, 4]}, "'bbox' .*True"),
        ({"bbox": [[1] * 100_000]}, "'bbox' "),
    ],
    ids=str,
)
def test_faulty_objects_are_named(write_coco, record, facts):
    folder = write_coco([{}, record, {"id": 3}])
    file = folder / "annotations" / "instances_train.json"
    assert read_fast(file) is None
    with pytest.raises(UserError, match=facts):
        read_annotations(file)


@pytest.mark.parametrize(
    "contents",
    [
        {"images": [{"id": 1, "file_name": "1.png", "width": 64.5, "height": 48}]},
        {"images": [{"id": 1, "file_name": "1.png", "width": 0, "height": 48}]},
        {"images": [{"id": 1, "file_name": "", "width": 64, "height": 48}]},
        {"images": [{"id": 1, "file_name": "1\0.png", "width": 64, "height": 48}]},
        {"images": [{"id": 1, "file_name": "1.png", "width": True, "height": 48}]},
        {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]},
        {"categories": []},
        {"annotations": None},
    ],
    ids=str,
)
def test_faulty_images_and_categories_are_named(write_coco, contents):
    file = write_coco([{}]) / "annotations" / "instances_train.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | contents))
    assert read_fast(file) is None
    with pytest.raises(UserError):
        read_annotations(file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"segmentation": [[10', b'"area": NaN, "segmentation": [[10'),
        (b'"segmentation": [[10', b'"segmentation": [[NaN'),
        (b'"segmentation": [[10', b'"id": 1, "segmentation": [[1e999'),
        (b'{"images"', b'\xef\xbb\xbf{"images"'),  # a byte order mark
        (b'"width": 64', b'"width": 1, "width": 64.0'),  # a key twice: the last one counts
    ],
    ids=["NaN area", "NaN point", "infinite", "byte order mark", "twice"],
)
def test_json_that_the_fast_reader_refuses_is_read(write_coco, old, new):
    file = write_coco([{}, {}]) / "annotations" / "instances_train.json"
    content = file.read_bytes()
    file.write_bytes(content.replace(old, new, 1))
    assert file.read_bytes() != content
    first, second = pack_annotations(read_annotations(file)), pack_annotations(read_carefully(file))
    assert all(values.equal(second.arrays[name]) for name, values in first.arrays.items() if name != "areas")
    np.testing.assert_array_equal(first.arrays["areas"], second.arrays["areas"])


def test_bytes_that_are_not_utf8_are_refused(write_coco):
    file = write_coco([{"caption": "not read"}]) / "annotations" / "instances_train.json"
    file.write_bytes(file.read_bytes().replace(b"not read", b"\xe9"))
    assert read_fast(file) is None
    with pytest.raises(UserError, match=r"instances_train\.json: .*JSON"):
        read_annotations(file)


def test_list_of_test_images_needs_no_annotations(write_coco):
    file = write_coco([]) / "annotations" / "instances_train.json"
    contents = json.loads(file.read_text())
    del contents["annotations"]
    image_list = file.with_name("image_info_test-dev2017.json")
    for path in (file, image_list):
        path.write_text(json.dumps(contents))
    assert read_fast(file) is None
    assert_equal_readings(image_list)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_every_encoding_is_read_fast(write_coco, encoding):
    file = write_coco([{}], categories=[{"id": 1, "name": "\u732b"}]) / "annotations" / "instances_train.json"
    expected = read_fast(file)
    file.write_text(json.dumps(json.loads(file.read_text()), ensure_ascii=False), encoding=encoding)
    annotations = read_fast(file)
    assert annotations.classes == expected.classes == ("\u732b",)
    np.testing.assert_array_equal(annotations.xywh, expected.xywh)


def test_a_section_that_occurs_twice_is_an_error(write_coco):
    """JSON readers take the last one, and half of the objects would be lost."""
    file = write_coco([{}, {}]) / "annotations" / "instances_train.json"
    content = file.read_text()
    for section in ("images", "annotations", "categories"):
        file.write_text(content.removesuffix("}") + f', "{section}": []}}')
        with pytest.raises(UserError, match=rf"instances_train\.json: key '{section}' occurs twice"):
            read_annotations(file)
    file.write_text(content.removesuffix("}") + ', "info": {"images": 1, "annotations": "images"}}')
    assert len(read_annotations(file).ids) == 2
