"""Parameters of Faster R-CNN with the neck of the published tables of upsamplers, against the numbers of the tables."""

import pytest
import torch

from afictl import build_detector, load_preset

# Sources: README files of DySample (four steps; three in Panoptic FPN), SAPA (three) and FreqFusion (three).
# kind: (steps, published number, its last digit, biases that the number leaves out)
ADDED = [
    ("dysample", 4, 32_700, 100, 4 * 32),
    ("dysample-plus", 4, 65_500, 100, 4 * 32),
    ("dysample", 3, 24_600, 100, 3 * 32),
    ("dysample-plus", 3, 49_200, 100, 3 * 32),
    ("dysample-s-plus", 3, 6_200, 100, 3 * 16),
    ("carafe", 3, 220_000, 10_000, 0),
    ("sapa", 3, 50_000, 10_000, 0),
    ("fade", 3, 100_000, 100_000, 0),
    ("freqfusion", 3, 300_000, 100_000, 0),
    ("pixel-shuffle", 3, 7_100_000, 100_000, 0),
]
# backbone, start of the top-down path: published number, its last digit, scale and shift of the batch norms after res2,
# which mmdetection trains and counts
TOTAL = [
    ("resnet50", "p6", 46_800_000, 100_000, 50_176),
    ("resnet101", "p6", 65_800_000, 100_000, 102_400),
    ("resnet50", "p5", 41_530_000, 10_000, 50_176),
]


def build(interpolator, *overrides):
    with torch.device("meta"):
        return build_detector(load_preset("faster-rcnn-r50-fpn-4step", overrides), interpolator=interpolator)


@pytest.mark.parametrize(("kind", "steps", "published", "digit", "biases"), ADDED)
def test_interpolators_add_the_published_number(kind, steps, published, digit, biases):
    detector = build(kind, f"neck.top_down_from={'p6' if steps == 4 else 'p5'}")
    added = sum(value.numel() for value in detector.neck.interpolator.parameters()) - biases
    assert len(detector.neck.interpolator.steps) == steps
    assert abs(added - published) < digit  # some numbers are rounded, some cut off


@pytest.mark.parametrize(("backbone", "start", "published", "digit", "norms"), TOTAL)
def test_detectors_with_nearest_have_the_published_number(backbone, start, published, digit, norms):
    detector = build("nearest", f"backbone.name={backbone}", f"neck.top_down_from={start}")
    trained = sum(value.numel() for value in detector.parameters() if value.requires_grad)
    affine = {"weight", "bias"}
    buffers = dict(detector.backbone.named_buffers())
    frozen = [
        name for name in buffers if name.rpartition(".")[2] in affine and not name.startswith(("net.bn1", "net.layer1"))
    ]
    assert sum(buffers[name].numel() for name in frozen) == norms
    assert round((trained + norms) / digit) * digit == published


def test_the_recipe_is_the_schedule_of_the_tables():
    preset = load_preset("mask-rcnn-r50-fpn-4step")
    epoch = 7330  # 117,266 images with objects, 16 a step
    assert preset.train.steps == 12 * epoch
    assert preset.train.milestones == (8 * epoch, 11 * epoch)
    assert (preset.train.lr, preset.train.batch_size, preset.train.warmup_steps) == (0.02, 16, 500)
    assert (preset.train.momentum, preset.train.weight_decay) == (0.9, 1e-4)
    assert (preset.input.min_sizes, preset.input.max_size, preset.input.flip) == ((800,), 1333, 0.5)
