"""COCO results without boxes, and with integers as pandas writes them."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from afictl.errors import UserError
from afictl.evaluation import EVALUATORS, predictions, score_predictions
from afictl.evaluation.predictions import iter_results
from tests.evaluation.test_scoring import polygon_of_box, random_predictions, random_set, rle_of_box

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@pytest.fixture
def truth(tmp_path):
    dataset = random_set(np.random.default_rng(5))
    for item in dataset["annotations"]:
        item["id"] += 1  # to pycocotools an object of id 0 is none
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(dataset))
    return path


@pytest.fixture
def results(truth):
    return random_predictions(np.random.default_rng(6), json.loads(truth.read_text()))


def without_boxes(results):
    return [{key: value for key, value in item.items() if key != "bbox"} for item in results]


def with_boxes_of_masks(results):
    return [{**item, "bbox": coco_mask.toBbox(item["segmentation"]).tolist()} for item in results]


def as_file(path, results):
    path.write_text(json.dumps(results))
    return path


def by_pycocotools(truth, file, kind):
    """The metrics of pycocotools for a file of results; size ranges of boxes are those of the boxes' areas."""
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(truth))
        detections = objects.loadRes(str(file))
        if kind == "bbox":
            for item in detections.anns.values():
                item["area"] = item["bbox"][2] * item["bbox"][3]
        scorer = COCOeval(objects, detections, kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return [100 * value for value in scorer.stats[:6]]


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_masks_without_boxes_score_as_in_pycocotools(truth, results, tmp_path, monkeypatch, evaluator):
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 700)
    monkeypatch.setattr(predictions, "read_json", None)  # would be called for a file that cannot be parsed in chunks
    file = as_file(tmp_path / "masks.json", without_boxes(results))
    metrics = score_predictions(file, truth, evaluator=evaluator).metrics
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        values = [metrics[f"{name}/{metric}"] for metric in METRICS]
        assert min(values) > 1
        assert values == pytest.approx(by_pycocotools(truth, file, kind), abs=1e-9)


def test_masks_with_and_without_boxes_may_be_mixed(truth, results, tmp_path):
    """The second half has boxes other than those of its masks, which count."""
    half = len(results) // 2
    for item in results[half:]:
        item["bbox"] = (np.array(item["bbox"]) * 1.1).tolist()
    mixed = without_boxes(results[:half]) + results[half:]
    with_boxes = with_boxes_of_masks(results[:half]) + results[half:]
    expected = score_predictions(as_file(tmp_path / "with_boxes.json", with_boxes), truth)
    assert score_predictions(as_file(tmp_path / "mixed.json", mixed), truth) == expected
    assert score_predictions(mixed, truth) == expected
    assert "bbox" not in mixed[0]
    assert score_predictions(without_boxes(results), truth).metrics["box/AP"] != expected.metrics["box/AP"]


@pytest.mark.parametrize("empty_box", [[], None])
@pytest.mark.parametrize("counts", ["compressed", "runs"])
def test_empty_box_is_treated_as_absent(truth, results, tmp_path, empty_box, counts):
    mask, other = rle_of_box([10, 20, 30, 40]), rle_of_box([0, 0, 5, 5])
    if counts == "runs":
        pixels = coco_mask.decode(mask).flatten(order="F")
        ends = np.flatnonzero(np.diff(pixels, append=2)) + 1
        mask = {"size": mask["size"], "counts": np.diff(ends, prepend=0).tolist()}
    item = {**results[0], "bbox": empty_box, "segmentation": mask, "score": 0.9}
    with_box = {**results[1], "bbox": [0, 0, 5, 5], "segmentation": other}
    with_boxes = [{**item, "bbox": coco_mask.toBbox(rle_of_box([10, 20, 30, 40])).tolist()}, with_box]
    expected = score_predictions(with_boxes, truth)
    assert score_predictions(as_file(tmp_path / "results.json", [item, with_box]), truth) == expected
    assert score_predictions([item, with_box], truth) == expected


@pytest.mark.parametrize("change", [{}, {"bbox": None}, {"bbox": []}, {"segmentation": {}}, {"segmentation": None}])
def test_result_without_box_and_mask_is_an_error(truth, results, tmp_path, change):
    bare = {name: results[1][name] for name in ("image_id", "category_id", "score")}
    file = as_file(tmp_path / "results.json", [results[0], {**bare, **change}])
    for ids in (None, [results[0]["image_id"]]):
        with pytest.raises(UserError, match=r"results\.json: entry 1: .*bbox"):
            score_predictions(file, truth, image_ids=ids)


def test_iter_results_raises_at_a_result_without_box(results, tmp_path):
    file = as_file(tmp_path / "results.json", [results[0], *without_boxes(results[1:2])])
    detections = iter_results(file)
    assert next(detections).bbox == tuple(results[0]["bbox"])
    with pytest.raises(UserError, match=rf"results\.json: .*image {results[1]['image_id']} .*bbox"):
        next(detections)


def test_integer_ids_may_be_floats(truth, results, tmp_path, monkeypatch):
    expected = score_predictions(results, truth)
    floats = [{**item, **{name: float(item[name]) for name in ("image_id", "category_id")}} for item in results]
    assert score_predictions(floats, truth) == expected
    file = as_file(tmp_path / "results.json", floats)
    assert '"image_id": 10.0' in file.read_text()
    monkeypatch.setattr(predictions, "read_json", None)
    assert score_predictions(file, truth) == expected


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"image_id": 10.5}, r"entry 0: 'image_id' .*10\.5"),
        ({"category_id": 1.5}, r"entry 0: 'category_id' .*1\.5"),
        ({"image_id": float("inf")}, "entry 0: 'image_id' .*inf"),
        ({"image_id": True}, "entry 0: 'image_id' .*True"),
        ({"category_id": 7.0}, r"entry 0: category 7\.0"),
    ],
)
def test_ids_that_are_not_integers_are_errors(truth, results, tmp_path, change, facts):
    file = as_file(tmp_path / "results.json", [{**results[0], **change}])
    for source, ids in ((file, None), (file, [10]), (json.loads(file.read_text()), None)):
        with pytest.raises(UserError, match=facts):
            score_predictions(source, truth, image_ids=ids)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_flags_that_coco_evaluation_does_not_know_leave_the_numbers_of_pycocotools(truth, results, tmp_path, evaluator):
    expected = score_predictions(results, truth, evaluator=evaluator).metrics
    content = json.loads(truth.read_text())
    for item in content["annotations"][::2]:
        item |= {"ignore": 1, "difficult": 1}
    truth.write_text(json.dumps(content))
    metrics = score_predictions(results, truth, evaluator=evaluator).metrics
    assert metrics == expected
    file = as_file(tmp_path / "results.json", results)
    values = [metrics[f"box/{metric}"] for metric in METRICS]
    assert values == pytest.approx(by_pycocotools(truth, file, "bbox"), abs=1e-9)


def with_polygons(results):
    """Octagons, some of them in two parts."""
    corners = np.array([[0.3, 0], [0.7, 0], [1, 0.3], [1, 0.7], [0.7, 1], [0.3, 1], [0, 0.7], [0, 0.3]])
    polygons = []
    for k, item in enumerate(results):
        x, y, width, height = item["bbox"]
        parts = [corners] if k % 3 else [corners * (0.45, 1), corners * (0.45, 1) + (0.55, 0)]
        outline = [(part * (width, height) + (x, y)).round(2).ravel().tolist() for part in parts]
        polygons.append({**item, "segmentation": outline})
    return polygons


def masks_by_pycocotools(truth, file):
    """AP of masks, and the metrics of size ranges by the area of the mask instead of the box."""
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(truth))
        detections = objects.loadRes(str(file))
        stats = []
        for _ in range(2):
            scorer = COCOeval(objects, detections, "segm")
            scorer.evaluate()
            scorer.accumulate()
            scorer.summarize()
            stats.append(scorer.stats)
            for item in detections.anns.values():
                item["area"] = float(coco_mask.area(detections.annToRLE(item)))
    return [100 * value for value in (*stats[0][:3], *stats[1][3:6])]


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_polygons_score_as_in_pycocotools(truth, results, tmp_path, monkeypatch, evaluator):
    """As SAHI and others write them; some results without ``segmentation``, whose box is their mask in ``loadRes``."""
    results = with_polygons(results)
    for item in results[::9]:
        del item["segmentation"]
    for item in results[1::9]:
        item["segmentation"] = rle_of_box(item["bbox"])
    file = as_file(tmp_path / "results.json", results)
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 700)
    monkeypatch.setattr(predictions, "read_json", None)
    metrics = score_predictions(file, truth, evaluator=evaluator).metrics
    assert [metrics[f"box/{metric}"] for metric in METRICS] == pytest.approx(by_pycocotools(truth, file, "bbox"))
    values = [metrics[f"mask/{metric}"] for metric in METRICS]
    assert min(values) > 1
    assert values == pytest.approx(masks_by_pycocotools(truth, file), abs=1e-9)
    assert score_predictions(results, truth, evaluator=evaluator).metrics == metrics


def test_polygons_without_boxes_have_the_boxes_of_their_pixels(truth, results, tmp_path):
    polygons = with_polygons(results)
    runs = []
    for item in polygons:
        rle = coco_mask.merge(coco_mask.frPyObjects(item["segmentation"], 240, 320))
        runs.append({**item, "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}})
    expected = score_predictions(with_boxes_of_masks(runs), truth)
    assert score_predictions(as_file(tmp_path / "results.json", without_boxes(polygons)), truth) == expected


@pytest.mark.parametrize("restricted", [False, True])
def test_values_that_pandas_writes_for_absent_ones(truth, results, tmp_path, restricted):
    """Also a flat list of numbers, which is one polygon, and one polygon among others that has too few points."""
    ids = [results[0]["image_id"], results[1]["image_id"]] if restricted else None
    box = results[0]["bbox"]
    expected = [
        {**results[0], "segmentation": polygon_of_box(box)},
        {**results[1], "segmentation": None},
        {**results[2], "segmentation": polygon_of_box(box)},
    ]
    unusual = [
        {**results[0], "segmentation": polygon_of_box(box)[0]},
        {**results[1], "segmentation": float("nan")},
        {**results[2], "segmentation": [*polygon_of_box(box), [1, 2, 3, 4]]},
    ]
    file = as_file(tmp_path / "results.json", unusual)
    assert score_predictions(file, truth, image_ids=ids) == score_predictions(expected, truth, image_ids=ids)
    boxless = [{**item, "bbox": float("nan")} for item in unusual[::2]]
    expected = without_boxes(expected[::2])
    assert score_predictions(boxless, truth, image_ids=ids) == score_predictions(expected, truth, image_ids=ids)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_results_may_have_any_encoding_of_json(truth, results, tmp_path, monkeypatch, encoding):
    expected = score_predictions(results, truth)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results), encoding=encoding)
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 701)
    monkeypatch.setattr(predictions, "read_json", None)
    assert score_predictions(file, truth) == expected
    assert [result.bbox for result in iter_results(file)] == [tuple(item["bbox"]) for item in results]


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (lambda x, y, w, h: {"bbox": [x / 320, y / 240, w / 320, h / 240]}, "boxes look like fractions"),
        (lambda x, y, w, h: {"bbox": [x, y, x + w, y + h]}, "boxes look like corners x1, y1, x2, y2"),
        (lambda x, y, w, h: {"segmentation": polygon_of_box([x / 3, y / 3, w / 3, h / 3])}, "0.33 times"),
    ],
)
def test_results_in_another_format_are_noticed_and_scored_as_by_pycocotools(
    truth, tmp_path, evaluator, change, meaning
):
    results = []
    for item in json.loads(truth.read_text())["annotations"]:
        box = item["bbox"]
        result = {"image_id": item["image_id"], "category_id": item["category_id"], "score": 0.5, "bbox": box}
        results.append({**result, "segmentation": polygon_of_box(box), **change(*box)})
    file = as_file(tmp_path / "results.json", results)
    evaluation = score_predictions(file, truth, evaluator=evaluator)
    (note,) = evaluation.notes
    assert "results.json" in note
    assert meaning in note
    assert evaluation.metrics["box/AP"] == pytest.approx(by_pycocotools(truth, file, "bbox")[0])
    assert evaluation.metrics["mask/AP"] == pytest.approx(masks_by_pycocotools(truth, file)[0])


def test_implausible_ground_truth_is_noticed(truth, results):
    assert score_predictions(results, truth).notes == ()
    content = json.loads(truth.read_text())
    for item in content["annotations"]:
        if not item["iscrowd"]:
            item["segmentation"] = [[value / 4 for value in item["segmentation"][0]]]
    truth.write_text(json.dumps(content))
    (note,) = score_predictions(results, truth).notes
    assert "instances.json" in note
    assert "0.25 times" in note
