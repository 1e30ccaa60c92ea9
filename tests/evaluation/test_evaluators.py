"""hotcoco against pycocotools on the same files, and its memory."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from afictl.data.layouts import find_split
from afictl.evaluation import evaluators, predictions, score_predictions
from benchmarks.detections_file import write_detections
from tests.helpers.ranks import FORKS

AREAS = (32.0**2, 96.0**2)


def reference(truth, detections, kind):
    """All metrics by pycocotools from the files; the size of a mask is its area, not that of its box."""
    objects = COCO(str(truth))
    results = objects.loadRes(json.loads(detections.read_text()))
    if kind == "mask":
        for item in results.anns.values():
            item["area"] = float(coco_mask.area(results.annToRLE(item)))
            item["score"] = item.pop("mask_score", item["score"])
    scorer = COCOeval(objects, results, {"box": "bbox", "mask": "segm"}[kind])
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    numbers = {f"{kind}/{name}": value for name, value in zip(names, scorer.stats, strict=False)}
    for k, category in enumerate(objects.loadCats(scorer.params.catIds)):
        for name, precision in (("AP", scorer.eval["precision"][:, :, k, 0, -1]), ("AP50", None)):
            values = scorer.eval["precision"][0, :, k, 0, -1] if precision is None else precision
            defined = values[values > -1]
            numbers[f"{category['name']}/{kind}/{name}"] = defined.mean() if defined.size else -1
    return {name: None if value == -1 else pytest.approx(100 * value, abs=1e-6) for name, value in numbers.items()}


def check(truth, detections, kinds=("box", "mask")):
    result = score_predictions(detections, truth)
    numbers = dict(result.metrics)
    for row in result.per_class:
        numbers |= {f"{row['name']}/{name}": row[name] for name in row if name not in ("name", "objects")}
    for kind in kinds:
        assert reference(truth, detections, kind).items() <= numbers.items()
    return result


def test_metrics_of_a_generated_set_equal_those_of_pycocotools(tmp_path):
    """Crowds, equal scores, 80 classes of which some are without objects, images without objects."""
    check(*write_detections(tmp_path, 60, masks=True, seed=1))


def change(file, edit):
    content = json.loads(file.read_text())
    content = edit(content) or content
    file.write_text(json.dumps(content))


def test_metrics_of_unusual_values_equal_those_of_pycocotools(tmp_path):
    """Several unusual values at once; each changes the numbers."""
    truth, detections = write_detections(tmp_path, 25, masks=True, seed=2)
    rng = np.random.default_rng(0)

    def objects(content):
        annotations = content["annotations"]
        for item, area in zip(annotations, AREAS * (len(annotations) // 4), strict=False):
            item["area"] = area  # the limits belong to both size ranges
        for item in annotations[::7]:
            item["category_id"] = 1
        content["categories"].append({"id": 10**9, "name": "absent"})
        content["categories"].reverse()
        numbers = {image["id"]: 3 * 10**9 - image["id"] for image in content["images"]}
        for image in content["images"]:
            image["id"] = numbers[image["id"]]
        for item in annotations:
            item["image_id"] = numbers[item["image_id"]]
        rng.shuffle(annotations)

    def results(content):
        for item in content:
            item["image_id"] = 3 * 10**9 - item["image_id"]
            item["score"] = round(item["score"], 1)
            if rng.random() < 0.5:
                item["mask_score"] = round(float(rng.random()), 1)
            if rng.random() < 0.1:
                del item["segmentation"]
        first = content[0]["image_id"]
        # more than 100 of one class in one image
        crowded = [{**item, "category_id": 1, "image_id": first} for item in content[:240]]
        content = [item for item in content if item["image_id"] != content[-1]["image_id"]] + crowded
        rng.shuffle(content)
        return content

    change(truth, objects)
    change(detections, results)
    result = check(truth, detections)
    assert result.metrics["box/APs"] is not None


@pytest.mark.parametrize("set_name", ["coco-mini", "bccd"])
def test_metrics_of_real_annotations_equal_those_of_pycocotools(shared_data, tmp_path, set_name):
    """Jittered and wrong detections of real objects, crowds among them."""
    truth = find_split(shared_data / set_name, "val").annotation_file
    rng = np.random.default_rng(0)
    content = json.loads(truth.read_text())
    objects, classes = COCO(str(truth)), [category["id"] for category in content["categories"]]
    results = []
    for item in content["annotations"]:
        for _ in range(int(rng.integers(0, 4))):
            box = np.array(item["bbox"]) * (1 + rng.normal(0, 0.1, 4))
            wrong = rng.random() < 0.2
            result = {
                "image_id": item["image_id"],
                "category_id": int(rng.choice(classes)) if wrong else item["category_id"],
                "bbox": box.clip(0).tolist(),
                "score": round(float(rng.random()), 2),
            }
            if item.get("segmentation"):
                mask = np.roll(objects.annToMask(item), int(rng.integers(-9, 9)), axis=int(rng.integers(2)))
                encoded = coco_mask.encode(np.asfortranarray(mask))
                result["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            results.append(result)
    (tmp_path / "predictions.json").write_text(json.dumps(results))
    result = check(truth, tmp_path / "predictions.json", ("box", "mask") if set_name == "coco-mini" else ("box",))
    assert 5 < result.metrics["box/AP"] < 95


LAYOUTS = [("[", ",", "]"), ("[\n", ",\n", "\n]\n"), (" [ ", " ,\n\n ", " ] ")]


@pytest.mark.parametrize(("opening", "between", "closing"), LAYOUTS)
def test_files_of_any_layout_are_split_between_results(tmp_path, monkeypatch, opening, between, closing):
    truth, detections = write_detections(tmp_path, 8, masks=True)
    entries = list(map(json.dumps, json.loads(detections.read_text())))
    expected = score_predictions(detections, truth).metrics
    detections.write_text(opening + between.join(entries) + closing)
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 700)
    monkeypatch.setattr(predictions, "read_json", None)  # would be called if the pieces could not be parsed
    assert score_predictions(detections, truth).metrics == expected


def test_a_file_that_cannot_be_split_is_read_at_once(tmp_path, monkeypatch):
    """A text contains the separator of two results."""
    truth, detections = write_detections(tmp_path, 4, masks=False)
    expected = score_predictions(detections, truth).metrics
    entries = json.loads(detections.read_text())
    detections.write_text(json.dumps([{**item, "note": "},{" * 300} for item in entries]))
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 700)
    assert score_predictions(detections, truth).metrics == expected


def peak_memory():
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def send_added_memory(folder, sender):
    """In a new process: score small masks, then large ones, and send by how much these increase the peak of memory."""
    evaluators._IMAGES_PER_UPDATE, predictions._CHUNK_BYTES = 1, 2**16  # so that a few images are enough
    score_predictions(folder / "small.json", folder / "instances.json")
    before = peak_memory()
    score_predictions(folder / "large.json", folder / "instances.json")
    sender.send(peak_memory() - before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_masks_do_not_fill_memory(tmp_path):
    """Large instead of small masks add less memory than their size in the file."""
    _, detections = write_detections(tmp_path, 80, masks=True)
    stripes = np.asfortranarray(np.indices((480, 640)).sum(axis=0) % 96 < 48, dtype=np.uint8)
    results = json.loads(detections.read_text())
    texts = {"small": results[0]["segmentation"]["counts"], "large": coco_mask.encode(stripes)["counts"].decode()}
    for name, counts in texts.items():
        masks = {"segmentation": {"size": [480, 640], "counts": counts}}
        entries = [{**item, **masks} for item in results]
        for entry in entries[::2]:
            del entry["bbox"]  # then it is computed from the mask
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    added_size = (tmp_path / "large.json").stat().st_size - (tmp_path / "small.json").stat().st_size
    assert added_size > 40 * 2**20  # large against the noise of the measurement
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=send_added_memory, args=(tmp_path, sender))
    process.start()
    sender.close()  # so that the end of the process ends the wait
    assert receiver.recv() < added_size / 2  # about four times as much if all masks were in memory
