"""Untrusted safetensors files whose descriptions claim sizes and contents that the file does not have."""

import json
import resource
import time

import pytest
import torch
from safetensors.torch import save_file

from afictl import AFInterpolator, UserError, load_preset, meta_device
from afictl.weights import load_detector, load_interpolator, read_checkpoint
from afictl.weights.classes import default_classes
from afictl.weights.conversion import convert

SWIN = "swin_tiny_patch4_window7_224"


def save(path, description):
    save_file({"a": torch.zeros(2)}, path, metadata={"afictl": json.dumps({"version": 1, **description})})
    return path


def detector(section, **values):
    preset = load_preset("faster-rcnn-r18-fpn-tiny").model_dump(mode="json")
    preset[section] |= values
    return {"format": "detector", "preset": preset, "classes": ["a"], "category_ids": [1]}


def interpolator(**config):
    return {"format": "afi-interpolator", "config": config}


def assert_refused(load, path, facts):
    """Loading fails with ``facts``, in 15 seconds and 200 MB of memory."""
    peak_kb, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=facts) as error:
        load(path)
    assert time.process_time() - start < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kb < 200 * 1024
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_detector, pytest.param(load_interpolator, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("section", "values", "fact"),
    [
        ("interpolator", {"kind": "afi", "options": {"blocks": 10**9}}, "'blocks'"),
        ("interpolator", {"kind": "afi", "options": {"blocks": 60_000}}, "2,000 parameters"),
        ("interpolator", {"kind": "afi", "options": {"growth": 10**12}}, "'growth'"),
        ("backbone", {"name": "resnet50", "options": {"layers": [10**9, 2, 6, 2]}}, "'layers'"),
        ("backbone", {"name": SWIN, "options": {"depths": [10**9, 2, 6, 2]}}, "'depths'"),
    ],
)
def test_a_detector_of_absurd_size_is_refused(load, section, values, fact, tmp_path, monkeypatch):
    monkeypatch.setattr(meta_device, "MAX_PARAMETERS", 2_000)  # more take seconds to build
    path = save(tmp_path / "big.safetensors", detector(section, **values))
    assert_refused(load, path, rf"big\.safetensors: .*{fact}")


@pytest.mark.parametrize(
    "config",
    [
        {"channels": 8, "blocks": 10**9},
        {"channels": 60_000, "blocks": 1},
        {"channels": 10**14, "blocks": 1},
        {"channels": 8, "nonsense": 1},
    ],
)
def test_an_impossible_interpolator_is_refused(config, tmp_path):
    path = save(tmp_path / "big.safetensors", interpolator(**config))
    foreign = save(tmp_path / "foreign.safetensors", {**interpolator(**config), "origin": {}})
    for load in (load_interpolator, AFInterpolator.load, lambda path: convert(path, tmp_path / "out.safetensors")):
        assert_refused(load, path, r"big\.safetensors: ")
    assert_refused(load_interpolator, foreign, r"foreign\.safetensors: ")


def test_an_interpolator_with_nan_is_refused(tmp_path):
    interpolator = AFInterpolator(8, blocks=1)
    interpolator.tail.bias.data[0] = torch.nan
    interpolator.save(tmp_path / "nan.safetensors")
    assert_refused(AFInterpolator.load, tmp_path / "nan.safetensors", "NaN")


def test_half_precision_becomes_single(tmp_path):
    AFInterpolator(8, blocks=1).half().save(tmp_path / "half.safetensors")
    loaded = AFInterpolator.load(tmp_path / "half.safetensors")
    assert all(value.dtype == torch.float32 and value.requires_grad for value in loaded.parameters())


def test_a_tensor_of_many_dimensions_without_elements_is_refused(tmp_path):
    torch.save({"a": torch.zeros(2**40, 0)}, tmp_path / "long.pth")
    assert_refused(read_checkpoint, tmp_path / "long.pth", "no elements")


def test_an_absurd_number_of_classes_is_refused():
    with pytest.raises(UserError, match="30,000,000 classes"):
        default_classes(30_000_000)


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("source", "facts"),
    [
        (
            "{A: &a [x, x], B: &b [*a, *a], C: &c [*b, *b], D: " + "[*c, *c" + 20_000 * ", *c" + "]}",
            r"\.source: .*aliases",
        ),
        ("{A: " + "[" * 20_000 + "]" * 20_000 + "}", r"detector\.source: .*nested"),
    ],
)
def test_a_configuration_that_grows_when_read_is_refused(source, facts, tmp_path):
    pytest.importorskip("detectron2")
    description = detector("input")
    description["preset"]["detector"] = {"kind": "detectron2", "source": source}
    assert_refused(load_detector, save(tmp_path / "big.safetensors", description), facts)


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
def test_a_repeated_value_of_a_configuration_is_stored_without_references(tmp_path):
    pytest.importorskip("detectron2")
    from afictl.presets.detectron2_configs import embed, read_config

    path = tmp_path / "custom.yaml"
    path.write_text("MODEL: {ANCHOR_GENERATOR: {SIZES: [&a [32, 64], *a]}}")
    assert read_config(embed(str(path))).MODEL.ANCHOR_GENERATOR.SIZES == [[32, 64], [32, 64]]
