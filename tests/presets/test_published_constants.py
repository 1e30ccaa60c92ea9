"""Constants of the detectors and recipes of presets, against published configurations of their rows.

The values are written out by hand from:

- detectron2: Base-RCNN-FPN, Base-RetinaNet, the 3x files of Faster, Mask and Cascade Mask R-CNN and of RetinaNet, the
  defaults of its configuration, and the models of its FCOS;
- AFI-GAN: its base, the three stages, and the files of R50-FPN, R50-PAFPN, ResNeSt-101 and Swin-L;
- AdelaiDet: Base-FCOS, the defaults of FCOS, and the BiFPN of BoxInst;
- CenterMask2: Base-CenterMask-ResNet and the 3x file of R50;
- mmdetection: Faster and Mask R-CNN R50-FPN 1x, and their files with CARAFE;
- Swin Transformer Object Detection: Cascade Mask R-CNN with Swin-T, 3x, for the optimizer.

Losses, assignments and centre sampling are held by the tests of the detectors, pixel statistics by ``test_presets``.
"""

import functools

import pytest
import torch
from torch import nn

from afictl import build_detector, list_presets, load_preset
from afictl.detectors.cascade_rcnn import CascadeHeads
from afictl.presets import list_torchvision_presets

FASTER = ("faster-rcnn-r50-fpn", "faster-rcnn-r101-fpn", "faster-rcnn-r50-fpn-4step")
MASK = ("mask-rcnn-r50-fpn", "mask-rcnn-r101-fpn", "mask-rcnn-r50-pafpn", "mask-rcnn-r50-fpn-4step")
RESNEST = ("cascade-rcnn-s101-fpn", "cascade-rcnn-s101-pafpn")
SWIN = ("cascade-rcnn-swin-t-bifpn", "cascade-rcnn-swin-l-bifpn")
CASCADE = ("cascade-rcnn-r50-fpn", *RESNEST, *SWIN)
FCOS = ("fcos-r50-fpn", "fcos-r50-bifpn", "centermask-r50-bifpn")
RETINANET = ("retinanet-r50-fpn",)
LARGE = (*FASTER, *MASK, *CASCADE, *FCOS, *RETINANET)
P2 = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
P3 = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
PLAIN_NORM, EFFICIENTDET_NORM = (1e-5, 0.1), (1e-3, 0.01)
"""eps and momentum of batch norms."""


@functools.cache
def detector_of(name):
    with torch.device("meta"):
        return build_detector(name, interpolator="nearest")


def test_every_large_preset_is_in_the_tables():
    assert set(LARGE) == {name for name in list_presets() if not name.endswith("-tiny") and "-lite0-" not in name}


@pytest.mark.parametrize("name", [*FASTER, *MASK, *CASCADE])
def test_proposal_network(name):
    rpn = detector_of(name).head.rpn
    strides = P3 if name in SWIN else P2
    assert detector_of(name).neck.strides == strides
    assert rpn.anchor_generator.strides == tuple(strides.values())
    assert rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    matcher, sampler = rpn.proposal_matcher, rpn.fg_bg_sampler
    assert (matcher.low_threshold, matcher.high_threshold, matcher.allow_low_quality_matches) == (0.3, 0.7, True)
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (256, 0.5)
    assert rpn.box_coder.weights == (1, 1, 1, 1)
    assert rpn.box_coder.bbox_xform_clip == pytest.approx(4.135166556742356)  # log(1000 / 16)
    assert rpn.nms_thresh == 0.7
    assert rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert rpn._post_nms_top_n == {"training": 2000 if name in CASCADE else 1000, "testing": 1000}


@pytest.mark.parametrize("name", [*FASTER, *MASK, *CASCADE])
def test_region_heads(name):
    heads = detector_of(name).head.roi_heads
    sampler, pools = heads.fg_bg_sampler, [heads.box_roi_pool, *([heads.mask_roi_pool] if heads.has_mask() else [])]
    assert heads.has_mask() == (name not in (*FASTER, *SWIN))
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (512, 0.25)
    matchers = heads.matchers if name in CASCADE else (heads.proposal_matcher,)
    overlaps = (0.5, 0.6, 0.7) if name in CASCADE else (0.5,)
    assert [(m.low_threshold, m.high_threshold) for m in matchers] == [(iou, iou) for iou in overlaps]
    assert not any(matcher.allow_low_quality_matches for matcher in (*matchers, heads.proposal_matcher))
    coders = heads.box_coders if name in CASCADE else (heads.box_coder,)
    expected = [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert [coder.weights for coder in coders] == expected[: len(coders)]
    assert heads.box_coder.weights == (10, 10, 5, 5)
    assert [(*pool.output_size, pool.sampling_ratio) for pool in pools] == [(7, 7, 0), (14, 14, 0)][: len(pools)]
    levels = ["p3", "p4", "p5", "p6"] if name in SWIN else ["p2", "p3", "p4", "p5"]
    for pool in pools:
        assert pool.featmap_names == levels
        mapper = pool.map_levels
        assert (mapper.k_min, mapper.k_max, mapper.s0, mapper.lvl0) == (int(levels[0][1]), int(levels[-1][1]), 224, 4)
    assert (heads.score_thresh, heads.nms_thresh, heads.detections_per_img) == (0.05, 0.5, 100)


@pytest.mark.parametrize("name", [*FASTER, *MASK, *CASCADE])
def test_layers_of_the_region_heads(name):
    heads = detector_of(name).head.roi_heads
    stages = heads.box_stages
    assert isinstance(heads, CascadeHeads) == (name in CASCADE) == (len(stages) == 3)
    has_convs = name in (*RESNEST, *SWIN)
    for head, predictor in stages:
        widths = [layer.out_channels for layer in head.modules() if isinstance(layer, nn.Conv2d)]
        assert widths == ([256] * 4 if has_convs else [])
        hidden = [layer.out_features for layer in head.modules() if isinstance(layer, nn.Linear)]
        assert hidden == ([1024] if has_convs else [1024, 1024])
        assert predictor.cls_score.out_features == 81
        assert predictor.bbox_pred.out_features == (4 if name in CASCADE else 320)
        assert norms(head) == ({PLAIN_NORM} if has_convs else set())
    if heads.has_mask():
        widths = [layer.out_channels for layer in heads.mask_head.modules() if isinstance(layer, nn.Conv2d)]
        assert widths == [256] * 4
        assert (heads.mask_predictor.deconv.kernel_size, heads.mask_predictor.logits.out_channels) == ((2, 2), 80)
        assert norms(heads.mask_head) == ({PLAIN_NORM} if has_convs else set())


def norms(module):
    """eps and momentum of the batch norms of a module that are trained."""
    return {(norm.eps, norm.momentum) for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)}


@pytest.mark.parametrize("name", LARGE)
def test_backbone_and_neck(name):
    detector = detector_of(name)
    backbone = detector.preset.backbone
    assert backbone.frozen_stages == (0 if name in SWIN else 2)
    frozen = {norm.eps for norm in detector.backbone.modules() if type(norm).__name__ == "FrozenBatchNorm"}
    assert frozen == (set() if name in SWIN else {1e-5})
    assert norms(detector.backbone) == ({PLAIN_NORM} if name in RESNEST else set())
    layer_norms = {norm.eps for norm in detector.backbone.modules() if isinstance(norm, nn.LayerNorm)}
    assert layer_norms == ({1e-5} if name in SWIN else set())
    assert backbone.options == ({"drop_path_rate": 0.2} if name in SWIN else {})
    bifpn = {"centermask-r50-bifpn": (160, 6), "fcos-r50-bifpn": (160, 6), **dict.fromkeys(SWIN, (256, 7))}
    assert (detector.neck.channels, getattr(detector.preset.neck, "repeats", 0)) == bifpn.get(name, (256, 0))
    with_norms = {PLAIN_NORM, EFFICIENTDET_NORM} if name in SWIN else {PLAIN_NORM}
    assert norms(detector.neck) == (with_norms if name in (*RESNEST, *bifpn) else set())
    assert detector.neck.size_divisor == (128 if name in bifpn else 64 if name.endswith("-4step") else 32)


@pytest.mark.parametrize("name", RETINANET)
def test_retinanet(name):
    head = detector_of(name).head
    assert detector_of(name).neck.strides == P3
    octave = (1, 2 ** (1 / 3), 2 ** (2 / 3))
    sizes = [[size * step for step in octave] for size in (32, 64, 128, 256, 512)]
    assert [list(level) for level in head.anchors.sizes] == [pytest.approx(level) for level in sizes]
    assert head.anchors.aspect_ratios == ((0.5, 1.0, 2.0),) * 5
    matcher = head.matcher
    assert (matcher.low_threshold, matcher.high_threshold, matcher.allow_low_quality_matches) == (0.4, 0.5, True)
    assert head.box_coder.weights == (1, 1, 1, 1)
    assert (head.candidates, head.score_threshold, head.nms_threshold, head.max_detections) == (1000, 0.05, 0.5, 100)
    for tower in (head.class_tower, head.box_tower):
        assert [layer.out_channels for layer in tower if isinstance(layer, nn.Conv2d)] == [256] * 4
    assert detector_of(name).neck.top["p6"].in_channels == 2048  # of res5


@pytest.mark.parametrize("name", FCOS)
def test_fcos(name):
    detector = detector_of(name)
    is_centermask = name.startswith("centermask")
    head = detector.head.fcos if is_centermask else detector.head
    assert detector.neck.strides == head.strides == P3
    assert head.size_ranges == (64, 128, 256, 512)
    limit = 50 if is_centermask else 100
    assert (head.candidates, head.score_threshold, head.nms_threshold, head.max_detections) == (1000, 0.05, 0.6, limit)
    for tower in (head.class_tower, head.box_tower):
        assert len([layer for layer in tower if isinstance(layer, nn.Conv2d)]) == 4
        groups = {(norm.num_groups, norm.eps) for norm in tower if isinstance(norm, nn.GroupNorm)}
        assert groups == {(32, 1e-5)}
    if name == "fcos-r50-fpn":
        assert detector.neck.top["p6"].in_channels == 256  # of p5
    if is_centermask:
        branch = detector.head
        assert branch.pool.featmap_names == ["p3", "p4", "p5"]
        assert (*branch.pool.output_size, branch.pool.sampling_ratio) == (14, 14, 0)
        assert branch.regions_train == 512 // 4
        assert [layer.out_channels for layer in branch.mask_scorer.convs if isinstance(layer, nn.Conv2d)] == [256] * 4
        assert branch.mask_scorer.iou.in_features == 1024
        assert branch.mask_predictor.deconv.out_channels == 256


@pytest.mark.parametrize("name", LARGE)
def test_recipe(name):
    preset = load_preset(name)
    recipe, images = preset.train, preset.input
    is_1x = name.endswith("-4step")
    assert (recipe.steps, recipe.milestones, recipe.warmup_steps) == (
        (87960, (58640, 80630), 500) if is_1x else (270_000, (210_000, 250_000), 1000)
    )
    assert images.min_sizes == ((800,) if is_1x else (640, 672, 704, 736, 768, 800))
    assert (images.max_size, images.test_size, images.flip) == (1333, 800, 0.5)
    rates = {**dict.fromkeys((*FCOS, *RETINANET), 0.01), **dict.fromkeys(SWIN, 1e-4)}
    optimizer, decay = ("adamw", 0.05) if name in SWIN else ("sgd", 1e-4)
    assert (recipe.batch_size, recipe.lr) == (16, rates.get(name, 0.02))
    assert (recipe.optimizer, recipe.weight_decay, recipe.momentum) == (optimizer, decay, 0.9)
    assert (recipe.schedule, recipe.clip_norm) == ("multistep", None)


def test_recipes_of_pre_training():
    preset = load_preset("mask-rcnn-r50-fpn")
    stages = {"stage1": (300_000, (270_000,), 0.001), "stage2": (180_000, (120_000, 160_000), 0.01)}
    for stage, values in stages.items():
        recipe = getattr(preset, stage)
        assert (recipe.steps, recipe.milestones, recipe.lr) == values
        assert (recipe.batch_size, recipe.warmup_steps, recipe.weight_decay, recipe.momentum) == (8, 1000, 1e-4, 0.9)
        assert (recipe.optimizer, recipe.clip_norm, recipe.adversarial_weight) == ("sgd", None, 1e-3)


@pytest.mark.parametrize("name", list_torchvision_presets())
def test_presets_of_torchvision_have_the_constants_of_its_models(name):
    from torchvision.models import detection

    preset, source = load_preset(name), name.partition(":")[2]
    with torch.device("meta"):
        model = getattr(detection, source)(weights=None, weights_backbone=None)
        ours = build_detector(preset).model
    transform, config = model.transform, preset.detector
    assert (transform.image_mean, transform.image_std) == (list(preset.input.mean), list(preset.input.std))
    assert ((preset.input.test_size,), preset.input.max_size) == (transform.min_size, transform.max_size)
    if source.startswith(("retinanet", "fcos")):
        values = (model.topk_candidates, model.score_thresh, model.nms_thresh, model.detections_per_img)
        assert values == (config.candidates, config.score_threshold, config.nms_threshold, config.max_detections)
    else:
        heads, rpn = model.roi_heads, model.rpn
        values = (heads.score_thresh, heads.nms_thresh, heads.detections_per_img)
        assert values == (config.score_threshold, config.nms_threshold, config.max_detections)
        assert rpn._pre_nms_top_n == ours.rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
        assert rpn._post_nms_top_n == ours.rpn._post_nms_top_n == {"training": 2000, "testing": 1000}
        for part in ("box_roi_pool", "mask_roi_pool"):
            pools = [getattr(model_of_pair.roi_heads, part) for model_of_pair in (model, ours)]
            assert len({(pool.output_size, pool.sampling_ratio) if pool else None for pool in pools}) == 1
        assert heads.fg_bg_sampler.batch_size_per_image == config.roi_batch
        assert rpn.fg_bg_sampler.batch_size_per_image == config.rpn_batch
    assert norms(ours.backbone.fpn) == norms(model.backbone.fpn)
    assert (norms(ours.backbone.body) == {PLAIN_NORM}) == source.endswith("_v2")
