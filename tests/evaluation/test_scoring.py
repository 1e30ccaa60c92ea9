"""Average precision: agreement of the evaluators, hand-made cases, and invalid files."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from afictl.errors import UserError
from afictl.evaluation import EVALUATORS, score_predictions
from afictl.evaluation.metrics import KINDS, METRICS

HEIGHT, WIDTH = 240, 320
BOX = [1, 2, 3, 4]


def rle_of_box(xywh):
    x, y, width, height = xywh
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    rle = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def polygon_of_box(xywh):
    x, y, width, height = xywh
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def random_boxes(rng, count):
    size = np.exp(rng.uniform(np.log(6), np.log(180), (count, 2)))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - size).clip(1)
    return np.concatenate([corner, size], axis=1).round(2)


def random_set(rng, images=24, categories=(1, 5, 90)):
    """Objects of every size with crowds, images without objects, ids with gaps, one category without objects."""
    dataset = {
        "images": [
            {"id": 10 + 3 * i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"} for i in range(images)
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in (*categories, 91)],
        "annotations": [],
    }
    for image in dataset["images"][: images - 4]:
        for box in random_boxes(rng, int(rng.integers(1, 9))).tolist():
            crowd = int(rng.random() < 0.1)
            dataset["annotations"].append(
                {
                    "id": len(dataset["annotations"]),  # starts at 0 on purpose
                    "image_id": image["id"],
                    "category_id": int(rng.choice(categories)),
                    "bbox": box,
                    "area": box[2] * box[3] * 0.9,
                    "iscrowd": crowd,
                    "segmentation": rle_of_box(box) if crowd else polygon_of_box(box),
                }
            )
    return dataset


def random_predictions(rng, dataset):
    """Jittered boxes of most objects, some with wrong classes, and false positives."""
    predictions = []

    def add(image_id, category_id, box):
        box = np.clip(box, 0, None).round(3).tolist()
        predictions.append(
            {
                "image_id": image_id,
                "category_id": int(category_id),
                "bbox": box,
                "score": round(float(rng.random()), 2),  # two digits, so that scores tie
                "segmentation": rle_of_box(box),
            }
        )

    categories = [category["id"] for category in dataset["categories"]]
    for item in dataset["annotations"][:-6]:
        jitter = 1 + rng.normal(0, 0.05, 4)
        wrong = rng.random() < 0.1
        add(item["image_id"], rng.choice(categories) if wrong else item["category_id"], item["bbox"] * jitter)
    for image in dataset["images"]:
        for box in random_boxes(rng, 3):
            add(image["id"], rng.choice(categories), box)
    return predictions


@pytest.fixture
def write(tmp_path):
    def _write(content, name="instances.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return _write


def box_set(*annotations, categories=(1,)):
    return {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH, "file_name": "1.jpg"}],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [{"image_id": 1, "category_id": 1, "iscrowd": 0, **a} for a in annotations],
    }


def prediction_of(box, score=0.9, category_id=1, image_id=1, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score, **more}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [None, 10])
def test_the_two_evaluators_agree(write, seed, limit):
    rng = np.random.default_rng(seed)
    dataset = random_set(rng)
    predictions, path = random_predictions(rng, dataset), write(dataset)
    image_ids = [image["id"] for image in dataset["images"]][:limit]
    fast, slow = (score_predictions(predictions, path, image_ids=image_ids, evaluator=name) for name in EVALUATORS)
    assert set(fast.metrics) == {f"{kind}/{metric.key}" for kind in KINDS for metric in METRICS}
    assert fast.metrics["box/AP"] > 5
    assert fast.metrics == pytest.approx(slow.metrics, abs=1e-9)
    for row, expected in zip(fast.per_class, slow.per_class, strict=True):
        assert row == pytest.approx(expected, abs=1e-9) if row["objects"] else row == expected


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_precision_of_a_hand_made_case(write, evaluator):
    """Of two objects one is detected exactly: precision 1 up to recall 0.5, that is at 51 of 101 points."""
    path = write(box_set({"id": 1, "bbox": [10, 10, 20, 20]}, {"id": 2, "bbox": [100, 100, 50, 50]}, categories=(1, 2)))
    result = score_predictions([prediction_of([10, 10, 20, 20])], path, evaluator=evaluator)
    half = pytest.approx(100 * 51 / 101)
    expected = {
        "box/AP": half,
        "box/AP50": half,
        "box/AP75": half,
        "box/APs": pytest.approx(100),  # the area comes from the box where the file gives none
        "box/APm": 0,
        "box/APl": None,
    }
    assert expected.items() <= result.metrics.items()
    first, second = result.per_class
    assert {"name": "class 1", "objects": 2, "box/AP": half, "box/AP50": half}.items() <= first.items()
    assert {"name": "class 2", "objects": 0, "box/AP": None, "box/AP50": None}.items() <= second.items()


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_predictions_have_zero_ap(write, evaluator):
    path = write(random_set(np.random.default_rng(0)))
    result = score_predictions([], path, evaluator=evaluator, masks=True)
    assert result.metrics["box/AP"] == result.metrics["mask/AP"] == 0
    assert "mask/AP" not in score_predictions([], path, evaluator=evaluator).metrics


@pytest.mark.parametrize("key", ["annotations", "none"])
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_without_objects_no_metric_is_defined(write, evaluator, key):
    """Also for image lists without the key ``annotations``, as COCO publishes for its test images."""
    dataset = box_set()
    dataset[key] = dataset.pop("annotations")
    result = score_predictions([prediction_of([1, 1, 5, 5])], write(dataset), evaluator=evaluator)
    assert set(result.metrics.values()) == {None}


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_ground_truth_without_outlines_scores_boxes_only(write, evaluator):
    path = write(box_set({"id": 1, "bbox": [10, 10, 20, 20], "segmentation": []}))
    prediction = {**prediction_of([10, 10, 20, 20]), "segmentation": rle_of_box([10, 10, 20, 20])}
    result = score_predictions([prediction], path, evaluator=evaluator)
    assert result.metrics["box/AP"] == pytest.approx(100)
    assert "mask/AP" not in result.metrics


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_object_without_outline_is_ignored_among_outlined_ones(write, evaluator):
    first, second = [10.0, 10, 20, 20], [100.0, 100, 50, 50]
    path = write(box_set({"id": 1, "bbox": first, "segmentation": polygon_of_box(first)}, {"id": 2, "bbox": second}))
    predictions = [{**prediction_of(box), "segmentation": rle_of_box(box)} for box in (first, second)]
    assert score_predictions(predictions, path, evaluator=evaluator).metrics["mask/AP"] == pytest.approx(100)


def test_a_huge_box_without_outline_needs_no_memory(write):
    first = [10.0, 10, 20, 20]
    sound = {"id": 1, "bbox": first, "segmentation": polygon_of_box(first)}
    path = write(box_set(sound, {"id": 2, "bbox": [100.0, 100, 1e12, 1e12]}))
    predictions = [prediction_of(box, segmentation=rle_of_box(box)) for box in (first, [150.0, 150, 50, 50])]
    assert score_predictions(predictions, path).metrics["mask/AP"] == pytest.approx(100)


UNUSABLE_MASKS = [
    {"size": [WIDTH, HEIGHT], "counts": rle_of_box([100, 100, 50, 50])["counts"]},
    {"size": [HEIGHT, WIDTH], "counts": rle_of_box([100, 100, 50, 50])["counts"][:-2]},
    {"size": [HEIGHT, WIDTH], "counts": [10, 20, 30]},
    {"size": 5, "counts": [10]},
    [[100, 100, 150, 100, 150, 150, 100]],
    [[float("nan"), 100, 150, 100, 150, 150]],
    [[1e300, 100, 150, 100, 150, 150]],
    "mask",
]


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("mask", UNUSABLE_MASKS)
def test_an_object_with_an_unusable_mask_is_ignored_by_the_mask_metric(write, evaluator, mask):
    first, second = [10.0, 10, 20, 20], [100.0, 100, 50, 50]
    bad = {"id": 2, "bbox": second, "segmentation": mask}
    path = write(box_set({"id": 1, "bbox": first, "segmentation": polygon_of_box(first)}, bad))
    for boxes in ([first], [first, second]):
        predictions = [prediction_of(box, segmentation=rle_of_box(box)) for box in boxes]
        assert score_predictions(predictions, path, evaluator=evaluator).metrics["mask/AP"] == pytest.approx(100)
    assert "mask/AP" not in score_predictions(predictions, write(box_set(bad)), evaluator=evaluator).metrics


def test_run_lengths_of_predictions_may_be_uncompressed(write):
    box = [0.0, 0, 2, HEIGHT]
    path = write(box_set({"id": 1, "bbox": box, "segmentation": polygon_of_box(box)}))
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, 2 * HEIGHT, (WIDTH - 2) * HEIGHT]}
    assert score_predictions([prediction_of(box, segmentation=runs)], path).metrics["mask/AP"] == pytest.approx(100)


def test_objects_that_cannot_be_scored_are_left_out(write):
    sound = {"id": 1, "bbox": [10, 10, 20, 20]}
    broken = [{"bbox": ["a", 1, 2, 3]}, {"bbox": [1, 2, 3, float("inf")]}, {"image_id": [1], "bbox": [1, 2, 3, 4]}]
    result = score_predictions([prediction_of([10, 10, 20, 20])], write(box_set(sound, *broken)))
    assert result.metrics["box/AP"] == pytest.approx(100)


def test_mask_size_ranges_use_the_area_of_the_mask(write):
    """A thin mask in a large box is a small object: a false positive of that kind costs APs, not APl."""
    box, thin = [10.0, 10, 20, 20], [100.0, 5, 120, 3]
    path = write(box_set({"id": 1, "bbox": box, "area": 400, "segmentation": polygon_of_box(box)}))
    alarm = {**prediction_of([100, 5, 120, 120], score=0.99), "segmentation": rle_of_box(thin)}
    hit = {**prediction_of(box, score=0.5), "segmentation": rle_of_box(box)}
    for evaluator in EVALUATORS:
        metrics = score_predictions([alarm, hit], path, evaluator=evaluator).metrics
        assert metrics["box/APs"] == pytest.approx(100)
        assert metrics["mask/APs"] == pytest.approx(50)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_mask_score_ranks_masks_and_leaves_boxes(write, evaluator):
    """By its score the false positive comes second, by its mask score first."""
    box, alarm = [10.0, 10, 20, 20], [100.0, 100, 50, 50]
    path = write(box_set({"id": 1, "bbox": box, "segmentation": polygon_of_box(box)}))
    hit = prediction_of(box, 0.9, segmentation=rle_of_box(box), mask_score=0.3)
    miss = prediction_of(alarm, 0.8, segmentation=rle_of_box(alarm), mask_score=0.4)
    metrics = score_predictions([hit, miss], path, evaluator=evaluator).metrics
    assert metrics["box/AP"] == pytest.approx(100)
    assert metrics["mask/AP"] == pytest.approx(50)
    # without mask_score a mask has the score of its box
    del miss["mask_score"], hit["mask_score"]
    assert score_predictions([hit, miss], path, evaluator=evaluator).metrics["mask/AP"] == pytest.approx(100)


def test_predictions_from_a_file_score_the_same_and_are_left_unchanged(write):
    rng = np.random.default_rng(7)
    dataset = random_set(rng)
    predictions = random_predictions(rng, dataset)
    path, content = write(dataset), json.dumps(predictions)
    from_list = score_predictions(predictions, path)
    from_file = score_predictions(write(predictions, "predictions.json"), path)
    assert from_list == from_file
    assert json.dumps(predictions) == content


def test_nothing_is_printed(write, capfd):
    path = write(box_set({"id": 1, "bbox": [10, 10, 20, 20]}))
    for evaluator in EVALUATORS:
        score_predictions([prediction_of([10, 10, 20, 20])], path, evaluator=evaluator)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("predictions", "facts"),
    [
        ("[1, 2", "JSON"),
        ({"images": []}, "list.* dict"),
        ([{"image_id": 1, "bbox": BOX, "score": 1}], "entry 0: .*category_id"),
        ([prediction_of(BOX), prediction_of(BOX, category_id=7)], "entry 1: category 7"),
        ([prediction_of(BOX, image_id=8)], "entry 0: image 8"),
        (["box"], "entry 0: .*mapping"),
        ([{**prediction_of(BOX), "bbox": [1, 2, 3]}], "entry 0: 'bbox'"),
        ([prediction_of(BOX), prediction_of([1, "2", 3, 4])], "entry 1: 'bbox'"),
        ([prediction_of([1, 2, 3, float("nan")])], "entry 0: 'bbox' .*finite"),
        ([prediction_of(BOX, score="high")], "entry 0: 'score'"),
        ([prediction_of(BOX, mask_score="high")], "entry 0: 'mask_score'"),
        ([prediction_of(BOX, mask_score=float("inf"))], "entry 0: 'mask_score' .*finite"),
        ([prediction_of(BOX, image_id=[1])], "entry 0: 'image_id'"),
        ([prediction_of(BOX, segmentation="mask")], "entry 0: 'segmentation' .*'mask'.* run-length"),
        ([prediction_of(BOX, segmentation=[[1, 2, 4, 2, 4, 6, 7]])], "entry 0: 'segmentation' .*pairs"),
        ([prediction_of(BOX, segmentation=[[1, 2, 4, 2, 4, "6"]])], "entry 0: 'segmentation' .*pairs"),
        ([prediction_of(BOX, segmentation=[[[1, 2], [4, 2], [4, 6]]])], "entry 0: 'segmentation' .*pairs"),
        ([prediction_of(BOX, segmentation=[[1, 2, 4, 2, 4, 1e30]])], "entry 0: 'segmentation' .*320x240"),
        ([prediction_of(BOX, segmentation=[[1, 2, 4, 2]])], "entry 0: 'segmentation' .*three points"),
        ([prediction_of(BOX, segmentation=[1, 2, 4])], "entry 0: 'segmentation' .*pairs"),
        ([prediction_of(BOX, segmentation=7)], "entry 0: 'segmentation' .*7"),
        ([prediction_of(BOX, score=True)], "entry 0: 'score' .*True"),
        ([prediction_of([1, 2, 3, 10**400])], "entry 0: 'bbox'"),
        ('[{"a": ' + "[" * 100_000, "nested too deep"),
        ("[]\n[]", "line 2"),
        ([prediction_of(BOX, segmentation={"size": [3, 2], "counts": [6]})], "entry 0: .*240, 320"),
    ],
)
def test_wrong_predictions_are_named(write, predictions, facts):
    annotations = write(box_set({"id": 1, "bbox": [10, 10, 20, 20]}))
    with pytest.raises(UserError, match=facts) as error:
        score_predictions(write(predictions, "predictions.json"), annotations)
    assert "predictions.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_annotation_files_and_evaluators_are_named(write, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.json: "):
        score_predictions([], tmp_path / "nowhere.json")
    with pytest.raises(UserError, match=r"instances\.json: holds a list"):
        score_predictions([], write([1]))
    with pytest.raises(UserError, match=r"instances\.json: no images"):
        score_predictions([], write({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(UserError, match="'coco'"):
        score_predictions([], write(box_set()), evaluator="coco")
