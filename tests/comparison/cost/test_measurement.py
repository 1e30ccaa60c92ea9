import pytest
import torch

from afictl import build_detector, load_preset
from afictl.comparison.cost import measurement as module
from afictl.comparison.cost.measurement import cost_images, measure_costs
from afictl.data import load_coco
from afictl.detectors import model_cost

SMALL = ("neck.channels=16", "detector.fc_width=32", "interpolator.options={}", "input.test_size=64")


def detector(kind, preset="faster-rcnn-r18-fpn-tiny"):
    torch.manual_seed(0)
    return build_detector(load_preset(preset, SMALL), num_classes=2, interpolator=kind)


@pytest.fixture(scope="module")
def prices():
    torch.manual_seed(0)
    images = [torch.rand(3, 96, 64), torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    return measure_costs({kind: detector(kind) for kind in ("nearest", "carafe", "afi")}, images)


def test_parts_add_up_and_the_interpolator_is_one_of_them(prices):
    assert list(prices) == ["nearest", "carafe", "afi"]
    nearest, carafe, afi = prices.values()
    assert nearest.interpolator_parameters == nearest.interpolator_multiply_adds == 0
    for price in (carafe, afi):
        assert price.parameters - nearest.parameters == price.interpolator_parameters > 0
        assert price.multiply_adds - nearest.multiply_adds == price.interpolator_multiply_adds > 0
    for price in prices.values():
        assert price.milliseconds > price.interpolator_milliseconds > 0
        assert price.peak_bytes >= price.interpolator_peak_bytes


def test_work_is_that_of_model_show_at_the_most_frequent_size(prices):
    parts = model_cost(detector("afi"), (64, 96))
    assert prices["afi"].image_hw == (64, 96)
    assert prices["afi"].multiply_adds == sum(part.multiply_adds for part in parts)


def test_memory_of_the_interpolator_is_that_of_its_largest_call(prices):
    # p3 of 64x96 is 8x12: nearest holds its answer, 16x24, and nothing else
    assert prices["nearest"].interpolator_peak_bytes == 16 * 16 * 24 * 4
    assert prices["afi"].interpolator_peak_bytes > 2 * prices["nearest"].interpolator_peak_bytes


@pytest.mark.parametrize("name", ["torchvision:fasterrcnn_resnet50_fpn", "centermask-r18-bifpn-tiny"])
def test_other_necks_and_adapted_models(name):
    preset = load_preset(name, ["input.test_size=64"])
    made = build_detector(preset, num_classes=2, interpolator="bilinear")
    price = measure_costs({"one": made}, [torch.rand(3, 64, 64)])["one"]
    assert price.interpolator_multiply_adds > 0 == price.interpolator_parameters
    assert price.interpolator_peak_bytes > 0


def test_detectors_take_turns_on_every_image_after_a_turn_that_does_not_count(monkeypatch):
    calls, done = [], []

    def time(one, image):
        calls.append((one, image.shape[-1]))
        return (100.0, 50.0) if len(calls) <= 4 else (len(calls), 1.0)

    monkeypatch.setattr(module, "_time", time)
    pair = {"a": detector("nearest"), "b": detector("bilinear")}
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 96)]
    found = measure_costs(pair, images, lambda *counts: done.append(counts))
    a, b = pair.values()
    assert calls == [(a, 64), (b, 64), (a, 96), (b, 96)] * 4
    # the median of passes 5, 7, ... 15 and of 6, 8, ... 16
    assert (found["a"].milliseconds, found["b"].milliseconds) == (10_000, 11_000)
    assert found["a"].interpolator_milliseconds == 1000
    assert done == [(2 * turn, 16) for turn in range(1, 9)]


def test_one_image_is_measured_often_enough_for_a_median(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "_time", lambda *_: calls.append(1) or (1.0, 1.0))
    measure_costs({"a": detector("nearest")}, [torch.rand(3, 64, 64)])
    assert len(calls) == 1 + 6


def test_images_are_those_of_evaluation_or_one_of_the_largest_size(shapes_dir):
    config = load_preset("faster-rcnn-r18-fpn-tiny", ["input.test_size=48", "input.max_size=80"]).input
    images = cost_images(config, load_coco(shapes_dir, "val"))
    assert len(images) == 6
    assert all(min(image.shape[1:]) <= 48 and image.min() >= 0 and image.max() <= 1 for image in images)
    (noise,) = cost_images(config)
    assert noise.shape == (3, 48, 80)
    torch.testing.assert_close(noise, cost_images(config)[0], rtol=0, atol=0)
