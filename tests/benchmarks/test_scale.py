"""Benchmarks of large datasets and of the full schedules."""

import pytest

from afictl import load_preset
from afictl.data.formats.coco import read_annotations
from benchmarks.scale import write_box_file
from benchmarks.schedule_cost import preset_cost


def test_generated_boxes_are_valid_annotations(tmp_path):
    file = tmp_path / "instances_train.json"
    write_box_file(file, images=3, boxes=20)
    annotations = read_annotations(file)
    assert (len(annotations.file_names), len(annotations.ids), len(annotations.classes)) == (3, 20, 365)


def test_hours_follow_from_multiply_adds_images_and_rate():
    preset = load_preset("faster-rcnn-r18-fpn-tiny")
    cost = preset_cost(preset, (96, 128), rate=1e12)
    images = preset.train.steps * preset.train.batch_size
    assert cost["hours"]["guide"] == pytest.approx(2 * cost["multiply_adds"]["guide"] * images / 1e12 / 3600)
    assert cost["multiply_adds"]["stage3"] > cost["multiply_adds"]["guide"] > 0
    assert cost["multiply_adds"]["stage1"] > cost["multiply_adds"]["stage2"] > 0
