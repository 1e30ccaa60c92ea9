import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from afictl.detectors.anchor_fit import AnchorFitting, measure_ranges, propose_ranges
from afictl.detectors.anchors import FixedStrideAnchors

STRIDES = (4, 8, 16, 32, 64)
DEFAULT = ((32, 64, 128, 256, 512), (0.5, 1.0, 2.0))


def boxes_of(sizes, ratios, count=400, seed=0):
    """Boxes of known sizes and ratios with 3 % of noise, anywhere in a large image."""
    draw = np.random.default_rng(seed)
    size = draw.choice(sizes, count) * draw.normal(1, 0.03, count)
    ratio = draw.choice(ratios, count) * draw.normal(1, 0.03, count)
    wh = np.stack((size / ratio**0.5, size * ratio**0.5), axis=1)
    centres = draw.uniform(600, 1000, (count, 2))
    return np.concatenate((centres - wh / 2, centres + wh / 2), axis=1).astype(np.float32)


def test_known_sizes_and_ratios_are_recovered():
    sizes, ratios = (12, 40, 90, 200, 420), (0.4, 0.9, 1.8)
    fitting = AnchorFitting(boxes_of(sizes, ratios), STRIDES, per_octave=1)
    proposed = fitting.propose(*DEFAULT)
    np.testing.assert_allclose(proposed.sizes, sizes, rtol=0.1)
    np.testing.assert_allclose(proposed.ratios, ratios, rtol=0.1)
    assert proposed.score > fitting.measure(*DEFAULT).score
    np.testing.assert_allclose(proposed.level_shares, 0.2, atol=0.06)
    assert proposed == AnchorFitting(boxes_of(sizes, ratios), STRIDES, per_octave=1).propose(*DEFAULT)


def test_the_overlap_is_that_of_the_anchors_of_a_detector():
    boxes = boxes_of((10, 100), (0.5, 2.0), count=20)
    fit = AnchorFitting(boxes, STRIDES, per_octave=3).measure(*DEFAULT)
    maps = [torch.zeros(1, 1, 1600 // stride, 1600 // stride) for stride in STRIDES[2:]]
    anchors = torch.cat(FixedStrideAnchors(DEFAULT[0][2:], DEFAULT[1], STRIDES[2:], 3).levels(maps))
    coarse = AnchorFitting(boxes, STRIDES[2:], per_octave=3).measure(DEFAULT[0][2:], DEFAULT[1])
    best = box_iou(torch.from_numpy(boxes), anchors).amax(dim=1)
    assert coarse.mean_iou == pytest.approx(best.mean().item(), rel=1e-4)
    assert coarse.share == pytest.approx((best >= 0.5).float().mean().item())
    assert fit.mean_iou > coarse.mean_iou


def test_anchors_that_fit_are_kept():
    fitting = AnchorFitting(boxes_of(*DEFAULT), STRIDES, per_octave=1)
    assert fitting.propose(*DEFAULT) == fitting.measure(*DEFAULT)


def test_no_anchor_is_smaller_than_its_stride():
    fitting = AnchorFitting(boxes_of((6, 7), (1.0,)), STRIDES, per_octave=1)
    proposed = fitting.propose(*DEFAULT, keep_ratios=True)
    assert proposed.ratios == DEFAULT[1]
    assert all(size >= stride for size, stride in zip(proposed.sizes, STRIDES, strict=True))
    assert list(proposed.sizes) == sorted(proposed.sizes)


def test_size_ranges_divide_the_boxes_evenly_and_grow_with_the_strides():
    boxes = boxes_of((200, 400, 600, 800, 1000), (1.0,))
    assert measure_ranges(boxes, (64, 128, 256, 512)).level_shares[:2] == (0, pytest.approx(0.2, abs=0.05))
    np.testing.assert_allclose(propose_ranges(boxes, STRIDES).level_shares, 0.2, atol=0.05)
    assert propose_ranges(boxes_of((6,), (1.0,)), STRIDES).ranges == (8, 16, 32, 64)
