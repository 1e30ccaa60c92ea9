import pytest
import torch

from afictl import build_detector, load_preset
from afictl.comparison.cost import measurement
from afictl.comparison.cost.measurement import cost_images, measure_costs
from afictl.data import load_dataset
from afictl.detectors import model_cost

SMALL = (
    *("backbone.name=test_resnet", "neck.channels=16", "detector.fc_width=32"),
    *("interpolator.options={}", "input.test_size=64"),
)


def detector(kind, preset="faster-rcnn-r18-fpn-tiny"):
    torch.manual_seed(0)
    return build_detector(load_preset(preset, SMALL), num_classes=2, interpolator=kind)


@pytest.fixture(scope="module")
def costs():
    torch.manual_seed(0)
    images = [torch.rand(3, 96, 64), torch.rand(3, 64, 96), torch.rand(3, 64, 96)]
    return measure_costs({kind: detector(kind) for kind in ("nearest", "carafe", "afi")}, images)


def test_differences_between_detectors_are_their_interpolators(costs):
    assert list(costs) == ["nearest", "carafe", "afi"]
    nearest, carafe, afi = costs.values()
    assert nearest.interpolator_parameters == nearest.interpolator_multiply_adds == 0
    for cost in (carafe, afi):
        assert cost.parameters - nearest.parameters == cost.interpolator_parameters > 0
        assert cost.multiply_adds - nearest.multiply_adds == cost.interpolator_multiply_adds > 0
    for cost in costs.values():
        assert cost.milliseconds > cost.interpolator_milliseconds > 0
        assert cost.peak_bytes >= cost.interpolator_peak_bytes


def test_multiply_adds_equal_model_cost_at_the_most_frequent_size(costs):
    parts = model_cost(detector("afi"), (64, 96))
    assert costs["afi"].image_hw == (64, 96)
    assert costs["afi"].multiply_adds == sum(part.multiply_adds for part in parts)


def test_memory_of_the_interpolator_is_that_of_its_largest_call(costs):
    # p3 of 64x96 is 8x12: nearest allocates its result, 16x24, and nothing else
    assert costs["nearest"].interpolator_peak_bytes == 16 * 16 * 24 * 4
    assert costs["afi"].interpolator_peak_bytes > 2 * costs["nearest"].interpolator_peak_bytes


@pytest.mark.parametrize("name", ["torchvision:fasterrcnn_resnet50_fpn", "centermask-r18-bifpn-tiny"])
def test_costs_of_other_necks_and_adapted_models(name):
    preset = load_preset(name, ["input.test_size=64"])
    bilinear = build_detector(preset, num_classes=2, interpolator="bilinear")
    cost = measure_costs({"bilinear": bilinear}, [torch.rand(3, 64, 64)])["bilinear"]
    assert cost.interpolator_multiply_adds > 0 == cost.interpolator_parameters
    assert cost.interpolator_peak_bytes > 0


def test_detectors_alternate_on_every_image_after_a_warm_up(monkeypatch):
    calls, progress = [], []

    def time(detector, image):
        calls.append((detector, image.shape[-1]))
        return (100.0, 50.0) if len(calls) <= 4 else (len(calls), 1.0)

    monkeypatch.setattr(measurement, "_time", time)
    detectors = {"a": detector("nearest"), "b": detector("bilinear")}
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 96)]
    costs = measure_costs(detectors, images, lambda *counts: progress.append(counts))
    a, b = detectors.values()
    assert calls == [(a, 64), (b, 64), (a, 96), (b, 96)] * 4
    # the median of passes 5, 7, ... 15 and of 6, 8, ... 16
    assert (costs["a"].milliseconds, costs["b"].milliseconds) == (10_000, 11_000)
    assert costs["a"].interpolator_milliseconds == 1000
    assert progress == [(2 * turn, 16) for turn in range(1, 9)]


def test_one_image_is_measured_six_times(monkeypatch):
    calls = []
    monkeypatch.setattr(measurement, "_time", lambda *_: calls.append(1) or (1.0, 1.0))
    measure_costs({"a": detector("nearest")}, [torch.rand(3, 64, 64)])
    assert len(calls) == 1 + 6


def test_images_are_those_of_evaluation_or_one_of_the_largest_size(shapes_dir):
    config = load_preset("faster-rcnn-r18-fpn-tiny", ["input.test_size=48", "input.max_size=80"]).input
    images = cost_images(config, load_dataset(shapes_dir, "val"))
    assert len(images) == 6
    assert all(min(image.shape[1:]) <= 48 and image.min() >= 0 and image.max() <= 1 for image in images)
    (noise,) = cost_images(config)
    assert noise.shape == (3, 48, 80)
    torch.testing.assert_close(noise, cost_images(config)[0], rtol=0, atol=0)
