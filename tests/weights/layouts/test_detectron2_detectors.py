"""Recognition of detectors of detectron2 and AFI-GAN, and the presets derived from their tensors."""

import re

import pytest
import torch

from afictl import UserError, load_preset
from afictl.detectors import build_detector
from afictl.presets import parse_preset
from afictl.weights import load_detector
from afictl.weights.detector_file import detector_of
from afictl.weights.layouts import to_afictl
from afictl.weights.layouts.detectron2_detectors import in_rgb
from afictl.weights.loading import compare_tensors
from tests.helpers.foreign_checkpoints import as_checkpoint, cell_anchors, shapes_only, to_detectron2

MASK_RCNN = "d2_mask_rcnn_R50_FPN_3x"
STEM = "backbone.bottom_up.stem.conv1.weight"
CLASSES = "roi_heads.box_predictor.cls_score.bias"


def convert_layout(tensors):
    """Preset, converted checkpoint and load report of a checkpoint of ``tensors``."""
    converted = to_afictl(as_checkpoint(tensors))
    preset = parse_preset(converted.metadata["preset"])
    with torch.device("meta"):
        detector = build_detector(preset, len(converted.metadata["classes"]))
    return preset, converted, compare_tensors(detector, converted.tensors)


@pytest.mark.parametrize(
    ("key_list", "name", "kind", "interpolator"),
    [
        ("d2_faster_rcnn_R50_FPN_3x", "faster-rcnn-r50-fpn", "faster-rcnn", "nearest"),
        (MASK_RCNN, "mask-rcnn-r50-fpn", "mask-rcnn", "nearest"),
        ("d2_cascade_mask_rcnn_R50_FPN_3x", "cascade-rcnn-r50-fpn", "cascade-mask-rcnn", "nearest"),
        ("d2_retinanet_R50_FPN_3x", "retinanet-r50-fpn", "retinanet", "nearest"),
        ("d2_fcos_R50_FPN_1x", "fcos-r50-fpn", "fcos", "nearest"),
        ("afi_maskrcnn_R50_FPN", "mask-rcnn-r50-fpn", "mask-rcnn", "afi"),  # the extractor of stage 2 too
        ("v011_afi_maskrcnn_R50_FPN", "mask-rcnn-r50-fpn", "mask-rcnn", "afi"),
        ("afi_maskrcnn_R50_PAFPN", "mask-rcnn-r50-pafpn", "mask-rcnn", "afi"),
        ("v011_afi_maskrcnn_R50_PAFPN", "mask-rcnn-r50-pafpn", "mask-rcnn", "afi"),
        ("afi_cascade_mask_ResNeSt101_FPN", "cascade-rcnn-s101-fpn", "cascade-mask-rcnn", "afi"),
        ("afi_cascade_mask_ResNeSt101_PAFPN", "cascade-rcnn-s101-pafpn", "cascade-mask-rcnn", "afi"),
        pytest.param(
            *("v011_afi_cascade_mask_ResNeSt101_PAFPN", "cascade-rcnn-s101-pafpn", "cascade-mask-rcnn", "afi"),
            marks=pytest.mark.slow,
        ),
        ("afi_cascade_SwinTinyFixture_BiFPN", "cascade-rcnn-swin-t-bifpn", "cascade-rcnn", "afi"),
        ("afi_cascade_SwinL_BiFPN", "cascade-rcnn-swin-l-bifpn", "cascade-rcnn", "afi"),
        pytest.param(
            *("v011_afi_cascade_SwinL_BiFPN", "cascade-rcnn-swin-l-bifpn", "cascade-rcnn", "afi"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_tensors_of_all_supported_detectors_are_mapped(key_list, name, kind, interpolator):
    preset, _, report = convert_layout(shapes_only(key_list))
    assert report.complete, report
    assert (preset.name, preset.detector.kind, preset.interpolator.kind) == (name, kind, interpolator)
    # Recipe, input and neck are those of the shipped preset.
    shipped = load_preset(name)
    assert (preset.input, preset.train, preset.neck) == (shipped.input, shipped.train, shipped.neck)
    assert preset.backbone.stride_in_1x1 is ("-r50-" in name)


def test_a_detector_round_trips_through_the_layout_of_detectron2(tmp_path):
    torch.manual_seed(0)
    # Its anchors and its classes are not the usual ones.
    small = ["neck.channels=32", "detector.fc_width=64", "detector.mask_width=16", "detector.score_threshold=0.0"]
    detector = build_detector(load_preset("mask-rcnn-r18-pafpn-tiny", small), num_classes=3).eval()
    torch.save({"model": to_detectron2(detector)}, tmp_path / "model_final.pth")
    loaded = load_detector(tmp_path / "model_final.pth")
    assert loaded.report.complete
    assert loaded.preset.name == "mask-rcnn-r18-pafpn"
    assert loaded.preset.detector.anchor_sizes == detector.preset.detector.anchor_sizes
    assert loaded.preset.interpolator.options == {"blocks": 3, "growth": 32}
    assert loaded.classes == ("class_1", "class_2", "class_3")
    assert loaded.metadata["category_ids"] == [1, 2, 3]
    image = torch.rand(3, 96, 130)
    with torch.no_grad():
        expected = detector.head.rpn.head(list(detector.pyramid([image]).values()))
        actual = loaded.detector.head.rpn.head(list(loaded.detector.pyramid([image]).values()))
    for value, expected_value in zip(actual[0] + actual[1], expected[0] + expected[1], strict=True):
        torch.testing.assert_close(value, expected_value, rtol=1e-4, atol=1e-5)
    state = detector.state_dict()
    for name, value in loaded.detector.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-7)


def test_prefixes_of_several_devices_are_removed():
    assert convert_layout({f"module.{name}": value for name, value in shapes_only(MASK_RCNN).items()})[2].complete


def test_coco_classes_keep_their_category_ids():
    _, converted, _ = convert_layout(shapes_only(MASK_RCNN))
    assert converted.metadata["classes"][:2] == ["person", "bicycle"]
    assert converted.metadata["classes"][-1] == "toothbrush"
    assert converted.metadata["category_ids"][:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert converted.metadata["category_ids"][-1] == 90


@pytest.mark.parametrize(
    ("key_list", "stem", "mean"),
    [
        (
            "v011_afi_cascade_mask_ResNeSt101_PAFPN",
            "backbone.bottom_up.stem.conv1_1.weight",
            (123.68, 116.779, 103.939),
        ),
        ("afi_cascade_mask_ResNeSt101_FPN", "backbone.bottom_up.stem.conv1_1.weight", (123.68, 116.779, 103.939)),
        ("v011_afi_maskrcnn_R50_PAFPN", STEM, (123.675, 116.28, 103.53)),
        ("afi_maskrcnn_R50_FPN", STEM, (123.675, 116.28, 103.53)),
        ("d2_cascade_mask_rcnn_R50_FPN_3x", STEM, (123.675, 116.28, 103.53)),
        ("afi_cascade_SwinTinyFixture_BiFPN", "backbone.bottom_up.patch_embed.proj.weight", (123.675, 116.28, 103.53)),
    ],
)
def test_the_first_convolution_of_raw_pixels_is_that_of_the_original(key_list, stem, mean):
    tensors = shapes_only(key_list)
    weight = torch.randn(tensors[stem].shape)
    preset, converted, report = convert_layout(tensors | {stem: weight})
    assert report.complete
    is_resnet = stem == STEM
    std = (1.0, 1.0, 1.0) if is_resnet else (58.393, 57.12, 57.375)
    pixels = torch.rand(1, 3, 32, 32) * 255  # RGB
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    expected = torch.conv2d(normalised.flip(1) if is_resnet else normalised, weight)
    names = ("backbone.net.conv1.weight", "backbone.net.conv1.0.weight", "backbone.net.patch_embed.proj.weight")
    converted_weight = next(converted.tensors[name] for name in names if name in converted.tensors)
    statistics = (torch.tensor(values).view(3, 1, 1) for values in (preset.input.mean, preset.input.std))
    mean_01, std_01 = statistics
    actual = torch.conv2d((pixels / 255 - mean_01) / std_01, converted_weight)
    assert (actual - expected).abs().max() < 1e-5 * expected.std()


def test_the_background_becomes_the_first_class():
    tensors = shapes_only(MASK_RCNN) | {CLASSES: torch.arange(81.0)}
    _, converted, _ = convert_layout(tensors)
    assert converted.tensors["head.roi_heads.box_predictor.cls_score.bias"].tolist() == [80.0, *range(80)]


def bgr(std):
    return {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), "pixel_std": torch.tensor(std)}


@pytest.mark.parametrize(
    ("recorded", "factors"),
    [
        ({}, (255, 255, 255)),
        (bgr([1.0, 1.0, 1.0]), (255, 255, 255)),
        (bgr([57.375, 57.12, 58.395]), (255 / 58.395, 255 / 57.12, 255 / 57.375)),
    ],
)
def test_pixel_order_and_scale_move_into_the_stem(recorded, factors):
    stem = torch.randn(64, 3, 7, 7)
    preset, converted, report = convert_layout(shapes_only(MASK_RCNN) | {STEM: stem} | recorded)
    assert report.complete
    scale = torch.tensor(factors) * torch.tensor(preset.input.std)
    torch.testing.assert_close(converted.tensors["backbone.net.conv1.weight"], stem.flip(1) * scale.view(1, 3, 1, 1))
    assert preset.input == load_preset("mask-rcnn-r50-fpn").input


def test_rgb_models_keep_their_order():
    stem = torch.randn(64, 3, 7, 7)
    recorded = in_rgb(as_checkpoint(shapes_only(MASK_RCNN) | {STEM: stem}))
    torch.testing.assert_close(to_afictl(recorded).tensors["backbone.net.conv1.weight"], stem)
    with pytest.raises(UserError, match=r"--rgb: .*pixel_mean"):
        in_rgb(recorded)


def test_another_recorded_mean_goes_into_the_preset():
    preset, _, _ = convert_layout(shapes_only(MASK_RCNN) | {"pixel_mean": torch.tensor([102.0, 115.0, 122.0])})
    assert preset.input == load_preset("mask-rcnn-r50-fpn").input  # unused without pixel_std
    recorded = {"pixel_mean": torch.tensor([102.0, 115.0, 122.4]), "pixel_std": torch.ones(3)}
    preset, _, _ = convert_layout(shapes_only(MASK_RCNN) | recorded)
    assert preset.input.mean == pytest.approx((0.48, 115 / 255, 0.4))


def test_anchors_of_old_files_are_used():
    preset, converted, report = convert_layout(shapes_only("afi_maskrcnn_R50_FPN"))
    assert preset.detector.anchor_sizes == (32, 64, 128, 256, 512)
    assert "an extractor of stage 2" in converted.metadata["origin"]["notes"][-1]
    halved = cell_anchors((16, 32, 64, 128, 256), ratios=(0.4, 1.0, 2.5))
    preset, converted, report = convert_layout(shapes_only("afi_maskrcnn_R50_FPN") | halved)
    assert report.complete
    assert preset.detector.anchor_sizes == (16, 32, 64, 128, 256)
    assert preset.detector.anchor_ratios == (0.4, 1.0, 2.5)
    assert not any("stage 2" in note for note in converted.metadata["origin"]["notes"])


def test_frozen_norms_of_old_files_have_no_statistics():
    tensors = {k: v for k, v in shapes_only(MASK_RCNN).items() if not k.endswith(("running_mean", "running_var"))}
    _, converted, report = convert_layout(tensors)
    assert report.complete
    assert (converted.tensors["backbone.net.bn1.running_mean"] == 0).all()
    assert (converted.tensors["backbone.net.bn1.running_var"] == 1).all()


def test_statistics_of_a_single_norm_can_be_missing():
    tensors = shapes_only(MASK_RCNN)
    del tensors["backbone.bottom_up.stem.conv1.norm.running_var"]
    _, _, report = convert_layout(tensors)
    assert report.missing == ("backbone.net.bn1.running_var",)


def test_retinanet_loss_normalizer_has_its_initial_value():
    _, converted, _ = convert_layout(shapes_only("d2_retinanet_R50_FPN_3x"))
    assert converted.tensors["head.normalizer"] == 100


def test_resnext_is_recognised_by_its_groups():
    tensors = shapes_only("d2_faster_rcnn_R50_FPN_3x")
    for name, value in tensors.items():
        stage, conv = re.search(r"bottom_up\.res(\d)|$", name)[1], re.search(r"conv([123])\.|$", name)[1]
        if stage and conv:
            width, shape = 32 * 2 ** int(stage), list(value.shape)  # twice a ResNet's
            if conv != "3":
                shape[0] = width
            if conv == "2" and len(shape) == 4:
                shape[1] = width // 32
            elif conv == "3" and len(shape) == 4:
                shape[1] = width
            tensors[name] = torch.zeros(()).expand(shape)
    preset, _, report = convert_layout(tensors)
    assert report.complete
    assert (preset.backbone.name, preset.name) == ("resnext50_32x4d", "faster-rcnn-x50-fpn")
    assert not preset.backbone.stride_in_1x1


def test_unmapped_tensors_are_reported():
    _, _, report = convert_layout(shapes_only(MASK_RCNN) | {"roi_heads.keypoint_head.score.weight": torch.zeros(2)})
    assert report.unexpected == ("roi_heads.keypoint_head.score.weight",)
    _, _, report = convert_layout(shapes_only("afi_guide_RCNN_FPN_only"))
    assert "head.rpn.head.conv.0.0.weight" in report.missing
    assert not report.unexpected


def test_unsupported_backbone_is_refused():
    tensors = shapes_only(MASK_RCNN)
    tensors = {name: value for name, value in tensors.items() if ".res4." not in name}
    with pytest.raises(UserError, match=r"foreign\.pth: .*backbone\.bottom_up\."):
        to_afictl(as_checkpoint(tensors))


@pytest.mark.parametrize(
    ("key_list", "name"),
    [
        (MASK_RCNN, "backbone.fpn_lateral5.weight"),
        (MASK_RCNN, "backbone.bottom_up.res2.0.conv2.weight"),
        (MASK_RCNN, "roi_heads.box_head.fc1.weight"),
        (MASK_RCNN, "roi_heads.box_predictor.cls_score.weight"),
        ("d2_retinanet_R50_FPN_3x", "head.cls_score.weight"),
        ("d2_retinanet_R50_FPN_3x", "head.bbox_pred.weight"),
        ("d2_fcos_R50_FPN_1x", "backbone.top_block.p6.weight"),
        ("afi_maskrcnn_R50_FPN", "backbone.srf_module.Generators.0.0.0.weight"),
        ("afi_maskrcnn_R50_FPN", "backbone.srf_module.Generators.0.1.RDBs.0.conv1.0.weight"),
        ("afi_cascade_SwinTinyFixture_BiFPN", "backbone.before_bifpn.lateral5.0.weight"),
        ("afi_cascade_SwinTinyFixture_BiFPN", "backbone.bottom_up.patch_embed.proj.weight"),
        (
            "afi_cascade_SwinTinyFixture_BiFPN",
            "backbone.bottom_up.layers.0.blocks.0.attn.relative_position_bias_table",
        ),
    ],
)
def test_wrong_shapes_end_in_one_line_and_cost_no_memory(key_list, name):
    for shape in ((), (1_000_000, 0)):
        with pytest.raises(UserError) as error:
            detector_of(to_afictl(as_checkpoint(shapes_only(key_list) | {name: torch.zeros(shape)})))
        assert "\n" not in str(error.value)
