import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from afictl.data import load_dataset
from afictl.data.formats.coco import load_coco_file, load_ground_truth_file
from afictl.data.segmentation import normalize_segmentation
from afictl.errors import UserError
from tests.data.conftest import SQUARE


def test_gaps_in_category_ids_become_labels_from_one(write_coco):
    categories = [{"id": 90, "name": "zebra"}, {"id": 3, "name": "ant"}]
    data = write_coco([{"category_id": 90}, {"category_id": 3}], categories=categories)
    dataset = load_dataset(data, "train")
    assert dataset.classes == ("ant", "zebra")
    assert dataset.category_ids == (3, 90)
    assert dataset.objects(0).labels.tolist() == [2, 1]


def test_boxes_are_clipped_and_unusable_objects_counted(write_coco):
    objects = [
        {"bbox": [50, -5, 30, 20]},
        {"iscrowd": 1},
        {"bbox": [5, 5, 0, 10]},
        {"bbox": [5, 5, 4, -3]},
        {"bbox": [70, 5, 10, 10]},
    ]
    dataset = load_dataset(write_coco(objects, images=[{}, {}]), "train")
    assert len(dataset.objects(0).boxes) == 5
    usable = dataset.training_objects(0)
    assert usable.ids.tolist() == [1]
    assert usable.boxes.tolist() == [[50, 0, 64, 15]]
    assert dataset.training_images() == [0]
    assert dataset.left_out() == {
        "objects flagged 'iscrowd'": 1,
        "objects without area": 2,
        "objects outside the image": 1,
        "images without a usable object": 1,
    }


def test_every_form_of_segmentation_is_read(write_coco):
    bitmap = np.zeros((48, 64), dtype=np.uint8, order="F")
    bitmap[4:9, 7:20] = 1
    packed = coco_mask.encode(bitmap)
    runs = np.flatnonzero(np.diff(np.concatenate(([0], bitmap.ravel(order="F"), [-1])))).tolist()
    objects = [
        {"segmentation": [[1, 1, 9, 1, 9, 7], [20, 20, 30, 20, 30, 30.5]]},
        {"segmentation": {"size": [48, 64], "counts": packed["counts"].decode()}, "bbox": [7, 4, 13, 5]},
        {"segmentation": {"size": [48, 64], "counts": np.diff([0, *runs]).tolist()}, "bbox": [7, 4, 13, 5]},
        {"segmentation": []},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": {"size": [64, 48], "counts": packed["counts"].decode()}},
        {"segmentation": {"size": [48, 64], "counts": [3, 4]}},
        {"segmentation": {"size": 48, "counts": [48 * 64]}},
        {"segmentation": [[1, 1, 9, 1, 9, 1e30]]},
    ]
    dataset = load_dataset(write_coco(objects), "train")
    polygons, rle, loose, *unusable = dataset.objects(0).segmentations
    assert [polygon.tolist() for polygon in polygons] == objects[0]["segmentation"]
    assert (coco_mask.decode(rle) == bitmap).all()
    assert (coco_mask.decode(loose) == bitmap).all()
    assert unusable == [None] * 6
    assert dataset.has_masks
    assert dataset.training_objects(0, masks=True).ids.tolist() == [1, 2, 3]
    assert dataset.left_out(masks=True) == {"objects without a mask": 6}


def test_invalid_compressed_run_lengths_are_rejected():
    rng = np.random.default_rng(0)
    for height, width, share in [(1, 1, 1), (1, 1, 0), (48, 64, 0.5), (480, 640, 0.001), (700, 900, 0)]:
        bitmap = np.asfortranarray(rng.random((height, width)) < share, dtype=np.uint8)
        bitmap[:, : width // 3] = bitmap[:1, : width // 3]
        counts = coco_mask.encode(bitmap)["counts"].decode()
        sound = normalize_segmentation({"size": [height, width], "counts": counts}, (height, width))
        assert (coco_mask.decode(sound) == bitmap).all()
        for wrong in (counts + "1", counts[:-1], counts + "o", "\x20" + counts, counts + "é", "o" * 30 + "0"):
            assert normalize_segmentation({"size": [height, width], "counts": wrong}, (height, width)) is None
        assert normalize_segmentation({"size": [height, width + 1], "counts": counts}, (height, width + 1)) is None


def test_data_without_segmentations_have_no_masks(write_coco):
    crowd_mask = {"iscrowd": 1, "segmentation": SQUARE}
    assert not load_dataset(write_coco([{"segmentation": []}, crowd_mask]), "train").has_masks


def test_missing_area_is_the_area_of_the_box(write_coco):
    dataset = load_dataset(write_coco([{"area": 7.5}, {}, {"area": None}]), "train")
    assert dataset.objects(0).areas.tolist() == [7.5, 400, 400]


@pytest.mark.parametrize(
    ("objects", "sections", "facts"),
    [
        ([{"category_id": 7}], {}, ["annotation 1", "category_id 7"]),
        ([{"image_id": 7}], {}, ["annotation 1", "image_id 7"]),
        ([{"id": 5}, {"id": 5}], {}, ["annotations[1]", "id 5"]),
        ([{"bbox": [1, 2, 3]}], {}, ["id 1", "'bbox'", "[1, 2, 3]"]),
        ([{"image_id": "1"}], {}, ["id 1", "'image_id'", "'1'"]),
        ([], {"categories": []}, ["'categories'", "empty"]),
        ([], {"categories": [{"id": 4, "name": "cat"}, {"id": 2, "name": "cat"}]}, ["ids [4, 2]", "'cat'"]),
        ([], {"annotations": {}}, ["'annotations'", "list"]),
    ],
)
def test_error_names_file_and_id_in_one_line(write_coco, objects, sections, facts):
    data = write_coco(objects, **sections)
    with pytest.raises(UserError) as error:
        load_dataset(data, "train")
    message = str(error.value)
    assert "\n" not in message
    assert all(fact in message for fact in ["instances_train.json", *facts])


def test_error_names_broken_and_missing_files(write_coco, tmp_path):
    data = write_coco([{}])
    with pytest.raises(UserError, match=r"instances_test2017\.json .*instances_test\.json"):
        load_dataset(data, "test")
    with pytest.raises(UserError, match="split 'training'"):
        load_dataset(data, "training")
    with pytest.raises(UserError, match="nowhere: "):
        load_dataset(tmp_path / "nowhere", "train")
    file = data / "annotations" / "instances_train.json"
    contents = json.loads(file.read_text())
    del contents["images"][0]["height"]
    file.write_text(json.dumps(contents))
    with pytest.raises(UserError, match=r"images\[0\].* 1.*'height'.*missing"):
        load_dataset(data, "train")
    file.write_text(json.dumps({"annotations": [], "categories": []}))
    with pytest.raises(UserError, match=r"'images'.*missing"):
        load_dataset(data, "train")
    file.write_text('{"images": [')
    with pytest.raises(UserError, match=r"instances_train\.json: .*JSON"):
        load_dataset(data, "train")


def test_dataset_is_picklable(shapes_dir):
    dataset = load_dataset(shapes_dir, "train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.image_path(3) == dataset.image_path(3)
    assert copy.objects(3).boxes.equal(dataset.objects(3).boxes)


def test_objects_of_real_data_equal_those_of_pycocotools(shared_data):
    dataset = load_dataset(shared_data / "coco-mini", "val")
    reference = COCO(dataset.annotation_file)
    assert len(dataset.classes) == 80
    assert dataset.category_ids[-1] == 90
    for i, image_id in enumerate(dataset.image_ids):
        objects = dataset.objects(i)
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=image_id))
        assert sorted(objects.ids.tolist()) == sorted(a["id"] for a in annotations)
        assert dataset.image_path(i).is_file()


def test_layout_without_year_and_test_split(shared_data):
    dataset = load_dataset(shared_data / "bccd", "test")
    assert (len(dataset), dataset.classes, dataset.has_masks) == (72, ("RBC", "WBC", "Platelets"), False)


def test_ground_truth_of_a_faulty_file_leaves_out_what_cannot_be_scored(write_coco):
    objects = [{}, {"image_id": 7}, {"category_id": 7}, {"id": 1}, {"bbox": [1, 2, 3]}, {"id": None, "iscrowd": 1}]
    file = write_coco(objects) / "annotations" / "instances_train.json"
    dataset = load_ground_truth_file(file)
    assert dataset.arrays["crowd"].tolist() == [False, False, True]
    contents = json.loads(file.read_text())
    del contents["annotations"][4]  # the fast reader accepts the rest
    file.write_text(json.dumps(contents))
    assert load_ground_truth_file(file).arrays["xywh"].equal(dataset.arrays["xywh"])
    with pytest.raises(UserError, match="id 1"):
        load_coco_file(file, file.parent)


@pytest.mark.parametrize(
    ("value", "is_set"),
    [(value, True) for value in (1, 1.0, True, "1", "true", "True", 2)]
    + [(value, False) for value in (0, 0.0, False, None, float("nan"), "0", "false", "", "nan", "NaN", "None")],
    ids=str,
)
def test_flags_as_other_programs_write_them(write_coco, value, is_set):
    """NaN is pandas' absent value; in COCO's records an absent flag is not set."""
    for key in ("iscrowd", "ignore"):
        dataset = load_dataset(write_coco([{}, {key: value}]), "train")
        assert dataset.training_objects(0).ids.tolist() == ([1] if is_set else [1, 2])
        assert dataset.objects(0).crowd.tolist() == [False, is_set and key == "iscrowd"]


def test_ids_as_pandas_writes_them(write_coco):
    """A column of integers with one absent value is written as floats."""
    images, categories = [{"id": 3.0}, {"id": 5.0}], [{"id": 2.0, "name": "cat"}, {"id": 1.0, "name": "dog"}]
    objects = [{"id": 7.0, "image_id": 5.0, "category_id": 2.0, "area": float("nan"), "iscrowd": float("nan")}]
    dataset = load_dataset(write_coco(objects, images=images, categories=categories), "train")
    assert (dataset.classes, dataset.category_ids, dataset.image_ids) == (("dog", "cat"), (1, 2), [3, 5])
    assert (dataset.objects(1).ids.tolist(), dataset.objects(1).labels.tolist()) == ([7], [2])
    assert all(type(number) is int for number in dataset.category_ids)


def test_objects_flagged_ignore_are_left_out_of_training(write_coco):
    dataset = load_dataset(write_coco([{"ignore": 1}, {"ignore": 1, "iscrowd": 1}, {"difficult": 1}, {}]), "train")
    assert dataset.training_objects(0).ids.tolist() == [3, 4]
    assert dataset.left_out() == {"objects flagged 'iscrowd'": 1, "objects flagged 'ignore'": 1}
    assert len(dataset.objects(0).ids) == 4
