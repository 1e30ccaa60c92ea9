"""Generated annotation files: 'data check', training's reader and evaluation agree on what can be used."""

import json

import pytest
import torch
from hypothesis import strategies as st

from afictl.data import train_batches
from afictl.json_files import read_json
from afictl.presets import load_preset
from afictl.training.splits import load_splits
from tests.evaluation.test_predictions import METRICS, by_pycocotools
from tests.helpers.fuzzing import COUNTS, check_property, damaged, mutated, run_checked
from tests.helpers.tiny_runs import SMALL, set_flags

ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32")
SCALES = ("none", "none", "none", "fractions", "corners", "polygons", "flat")


@st.composite
def annotation_files(draw, instances):
    content = rescaled(instances, draw(st.sampled_from(SCALES)))
    text = json.dumps(draw(mutated(content)), ensure_ascii=draw(st.booleans()))
    return draw(damaged(text.encode(draw(st.sampled_from(ENCODINGS)), "surrogatepass")))


def rescaled(instances, scale):
    """``instances`` as exporters write them by mistake."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in instances["images"]}
    annotations = []
    for record in instances["annotations"]:
        width, height = sizes[record["image_id"]]
        x, y, w, h = record["bbox"]
        polygons = record["segmentation"] if isinstance(record["segmentation"], list) else None
        changes = {
            "none": {},
            "fractions": {"bbox": [x / width, y / height, w / width, h / height]},
            "corners": {"bbox": [x, y, x + w, y + h]},
            "polygons": polygons and {"segmentation": [[value * 10 for value in outline] for outline in polygons]},
            "flat": polygons and {"segmentation": polygons[0]},
        }[scale]
        annotations.append({**record, **(changes or {})})
    return {**instances, "annotations": annotations}


@pytest.mark.parametrize("count", COUNTS)
def test_annotation_files_are_used_or_refused_alike_everywhere(folder, instances, results, afictl, count):
    data, output, predictions = folder / "data", folder / "output", folder / "results.json"
    files = [data / "annotations" / f"instances_{split}.json" for split in ("train", "val")]
    names = tuple(file.name for file in files)
    predictions.write_text(json.dumps(results))
    settings = set_flags((*SMALL, "train.steps=1"))
    preset = ("--preset", "faster-rcnn-r18-fpn-tiny", "--interpolator", "nearest")

    def check(content):
        for file in files:
            file.write_bytes(content)
        checked = run_checked(afictl, folder, "data", "check", data, codes=(0, 1), names=names)
        if checked.code == 0:
            assert_batches_are_sound(load_splits(data).held_out)
        elif checked.code == 1:
            arguments = ("--data", data, "--output", output / "run", *preset, *settings)
            refused = run_checked(afictl, folder, "finetune", *arguments, codes=(), names=names)
            assert refused.code == 2
        arguments = ("--predictions", predictions, "--data", data, "--output", output / "scores")
        scored = run_checked(afictl, folder, "eval", *arguments, names=(*names, predictions.name))
        if scored.code == checked.code == 0:
            compare_with_pycocotools(files[1], predictions, output)

    check_property(annotation_files(instances), count, check)


def assert_batches_are_sound(dataset):
    config = load_preset("mask-rcnn-r18-fpn-tiny", SMALL).input
    batch = next(train_batches(dataset, config, 2, masks=dataset.has_masks, workers=0, seed=0))
    for image, target in zip(batch.images, batch.targets, strict=True):
        assert torch.isfinite(image).all()
        boxes = target["boxes"]
        assert torch.isfinite(boxes).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all()
        assert (boxes <= max(image.shape)).all()


def compare_with_pycocotools(file, predictions, output):
    """The same numbers as pycocotools; flags as pandas writes them are its zeros, and ids start at 1."""
    content = read_json(file)
    for number, record in enumerate(content["annotations"], start=1):
        flag = record.get("iscrowd")
        record |= {"id": number, "iscrowd": int(flag is not None and flag == flag and bool(flag))}
    reference = output / "instances.json"
    reference.write_text(json.dumps(content))
    try:
        expected = by_pycocotools(reference, predictions, "bbox")
    except (KeyError, TypeError):  # it cannot do without an area, and takes no None
        return
    metrics = json.loads((output / "scores" / "metrics.json").read_text())["metrics"]
    values = [metrics[f"box/{name}"] for name in METRICS]
    assert [-100 if value is None else value for value in values] == pytest.approx(expected, abs=1e-9)
