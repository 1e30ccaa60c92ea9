import copy
import pickle

import pytest
import torch
import yaml

from afictl import AFInterpolator, UserError, build_detector, load_preset, predict, substitute_interpolator
from afictl.detectors import model_cost
from afictl.interpolators import interpolator_kinds
from afictl.training.initial_weights import InitialWeights, load_initial_weights
from afictl.weights import load_backbone_weights, load_weights
from afictl.weights.detector_file import save_detector
from tests.helpers.detectron2_presets import SMALL, ZOO, build_small, set_weights, small_preset
from tests.helpers.targets import no_object, one_object, random_image

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2")

KINDS = list(ZOO)


@torch.no_grad()
@pytest.mark.parametrize("pixels", ["BGR", "RGB"])
@pytest.mark.parametrize("kind", KINDS)
def test_pyramid_and_detections_are_those_of_the_model(tmp_path, kind, pixels):
    detector = build_small(tmp_path, kind)
    if pixels == "RGB":
        path = tmp_path / "rgb.yaml"
        cfg = yaml.safe_load((tmp_path / f"{kind}.yaml").read_text())
        cfg["INPUT"]["FORMAT"] = "RGB"
        cfg["MODEL"] |= {"PIXEL_MEAN": [123.675, 116.28, 103.53], "PIXEL_STD": [58.395, 57.12, 57.375]}
        path.write_text(yaml.safe_dump(cfg))
        detector = set_weights(build_detector(load_preset(f"detectron2:{path}"), 3))
    pictures = [random_image(61, 83), random_image(70, 40)]
    inputs = [{"image": 255 * (picture if pixels == "RGB" else picture.flip(0))} for picture in pictures]
    model = detector.model
    maps = model.backbone(model.preprocess_image(inputs).tensor)
    assert detector.pyramid(pictures).keys() == maps.keys()
    for level, value in detector.pyramid(pictures).items():
        torch.testing.assert_close(value, maps[level], rtol=1e-4, atol=1e-4 * maps[level].std().item())
    for detections, expected in zip(detector(pictures), model(inputs), strict=True):
        expected = expected["instances"]
        assert len(expected) > 0
        torch.testing.assert_close(detections["boxes"], expected.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(detections["scores"], expected.scores, rtol=0, atol=1e-4)
        assert torch.equal(detections["labels"], expected.pred_classes + 1)
        if kind != "retinanet":
            assert (detections["masks"] != expected.pred_masks).float().mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_gets_a_gradient_also_without_objects_and_under_autocast(tmp_path, kind):
    detector = build_small(tmp_path, kind, interpolator=AFInterpolator(32, 1, 8)).train()
    pictures, targets = [random_image(64, 70), random_image(61, 90)], [one_object(64, 70), no_object(61, 90)]
    with torch.autocast("cpu", torch.bfloat16):
        losses, pyramid = detector.losses_and_pyramid(pictures, targets)
    assert list(pyramid) == list(detector.neck.strides)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    without_gradient = {key for key, value in detector.named_parameters() if value.requires_grad and value.grad is None}
    assert not without_gradient
    assert all(p.grad.abs().sum() > 0 for p in detector.neck.interpolator.parameters())
    detector.zero_grad()
    losses = detector(pictures, [no_object(64, 70), no_object(61, 90)])
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert not {key for key, value in detector.named_parameters() if value.requires_grad and value.grad is None}


@pytest.mark.parametrize("kind", ["mask", "retinanet"])
def test_losses_are_those_of_the_model(tmp_path, kind):
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    detector = build_small(tmp_path, kind).train()
    picture, truth = random_image(64, 70), one_object(64, 70)
    masks = BitMasks(truth["masks"].bool())
    objects = Instances((64, 70), gt_boxes=Boxes(truth["boxes"]), gt_classes=truth["labels"] - 1, gt_masks=masks)
    twin = copy.deepcopy(detector.model)
    torch.manual_seed(1)
    losses = detector([picture], [truth])
    torch.manual_seed(1)
    with EventStorage():
        expected = twin([{"image": 255 * picture.flip(0), "instances": objects}])
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_a_wrong_target_is_named(tmp_path):
    detector = build_small(tmp_path).train()
    with pytest.raises(ValueError, match="target 0: label 4"):
        detector([random_image(64, 64)], [one_object(64, 64, label=4)])


@torch.no_grad()
@pytest.mark.parametrize("kind", interpolator_kinds())
def test_every_interpolator_kind_is_built_and_substituted(tmp_path, kind):
    options = {"blocks": 1, "growth": 4} if kind == "afi" else {}
    preset = small_preset(tmp_path, "mask", f"interpolator={{kind: {kind}, options: {options}}}")
    detector = build_detector(preset, 3).eval()
    calls = []
    detector.neck.interpolator.register_forward_hook(lambda *_: calls.append(1))
    detector.pyramid([random_image(64, 64)])
    assert len(calls) == detector.neck.num_upsamplers == 3
    assert detector.interpolator_prefix == "model.backbone.interpolator."
    afi = AFInterpolator(32, blocks=2, growth=4)
    assert substitute_interpolator(detector, afi) == 3
    assert detector.neck.interpolator is afi
    assert detector.preset.interpolator.kind == "afi"


@torch.no_grad()
@pytest.mark.parametrize("neck", ["fpn", "pafpn", "bifpn"])
def test_a_configuration_may_name_backbones_of_afictl(tmp_path, neck):
    fine = {"RPN": {"IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"]}, "ROI_HEADS": {"IN_FEATURES": ["p3", "p4", "p5"]}}
    name = {"BACKBONE": {"NAME": f"build_afictl_resnet_{neck}_backbone"}}
    preset = small_preset(tmp_path, "mask", **name, **(fine if neck == "bifpn" else {}))
    detector = build_detector(preset, 3).eval()
    assert detector.preset.interpolator.kind == detector.neck.interpolator.kind == "afi"
    assert list(detector.pyramid([random_image(64, 64)])) == list(detector.neck.strides)
    assert isinstance(detector([random_image(64, 64)]), list)
    assert {id(p) for p in detector.neck.parameters()} >= {id(p) for p in detector.neck.interpolator.parameters()}


def test_every_enlargement_may_have_an_interpolator(tmp_path):
    detector = build_detector(small_preset(tmp_path, "mask", "neck.interpolators=per-step"), 3, "carafe")
    assert len(detector.neck.interpolator.steps) == detector.neck.num_upsamplers == 3
    assert detector.interpolator_prefix == "model.backbone.interpolator."
    path = tmp_path / "mask.yaml"
    values = yaml.safe_load(path.read_text())
    values["MODEL"]["BACKBONE"]["NAME"] = "build_afictl_resnet_pafpn_backbone"
    values["MODEL"]["AFICTL"] = {"INTERPOLATORS": "per-step", "TOP_DOWN_FROM": "p6"}
    path.write_text(yaml.safe_dump(values))
    preset = load_preset(f"detectron2:{path}")
    assert (preset.neck.kind, preset.neck.interpolators, preset.neck.top_down_from) == ("pafpn", "per-step", "p6")
    detector = build_detector(preset, 3, "carafe").eval()
    assert len(detector.neck.interpolator.steps) == 4
    assert list(detector.pyramid([random_image(64, 64)])) == ["p2", "p3", "p4", "p5", "p6"]


def test_settings_reach_the_model(tmp_path):
    settings = ("detector.proposals_test=7", "detector.nms_threshold=0.3", "backbone.frozen_stages=0", "neck.fuse=avg")
    model = build_small(tmp_path, "mask", *settings, "detector.anchor_sizes=[16,32,64,128,256]").model
    assert model.proposal_generator.post_nms_topk[False] == 7
    assert model.roi_heads.box_predictor.test_nms_thresh == 0.3
    assert model.backbone._fuse_type == "avg"
    assert model.backbone.bottom_up.stem.conv1.weight.requires_grad
    assert next(iter(model.proposal_generator.anchor_generator.cell_anchors))[1].tolist() == [-8, -8, 8, 8]
    half = build_small(tmp_path, "retinanet", "detector.anchor_sizes=[16,32,64,128,256]").model.anchor_generator
    whole = build_small(tmp_path, "retinanet").model.anchor_generator
    for cells, larger in zip(half.cell_anchors, whole.cell_anchors, strict=True):
        torch.testing.assert_close(2 * cells, larger)
    for setting in ("detector.anchor_ratios=[1]", "neck.norm=batch", "backbone.norm=batch", "detector.segments=false"):
        key = setting.partition("=")[0]
        with pytest.raises(UserError, match=key):
            build_small(tmp_path, "mask", setting)
    with pytest.raises(UserError, match="8 channels"):
        build_small(tmp_path, interpolator=AFInterpolator(8, 1, 4))


def test_a_failure_of_detectron2_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"mask\.yaml: .*build_nothing"):
        build_small(tmp_path, "mask", BACKBONE={"NAME": "build_nothing"})


def test_a_model_without_a_pyramid_is_refused():
    preset = load_preset("detectron2:COCO-Detection/faster_rcnn_R_50_C4_1x.yaml")
    with pytest.raises(UserError, match="GeneralizedRCNN"):
        build_detector(preset, 3)


@torch.no_grad()
@pytest.mark.parametrize("bgr", [True, False])
def test_imagenet_weights_of_timm_give_the_same_features(tmp_path, bgr):
    import timm

    detector = build_small(tmp_path, "mask", "backbone.stride_in_1x1=false")
    net = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    whole = timm.create_model("resnet18").eval()
    net.load_state_dict(whole.state_dict(), strict=False)
    view = detector.backbone
    view._bgr = bgr
    view.net.load_state_dict(view.convert_classifier(whole.state_dict()), strict=False)
    picture = random_image(64, 96)
    mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
    expected = net(((picture - mean[:, None, None]) / std[:, None, None])[None])
    for features, expected_features in zip(view(detector.batch([picture]).tensor).values(), expected, strict=True):
        torch.testing.assert_close(features, expected_features, rtol=1e-3, atol=1e-3)


def test_imagenet_weights_that_would_compute_something_else_are_refused():
    from afictl.backbones import load_pretrained

    detector = build_detector(load_preset(f"detectron2:{ZOO['mask']}"), 3)
    with pytest.raises(UserError, match=r"3x3 .*--backbone-weights"):
        load_pretrained(detector.backbone)
    with pytest.raises(UserError, match="timm has none"):
        load_pretrained(build_detector(load_preset(f"detectron2:{ZOO['gn']}"), 3).backbone)


def test_running_mean_of_retinanet_is_saved(tmp_path):
    detector = build_small(tmp_path, "retinanet").train()
    detector([random_image(64, 70)], [one_object(64, 70)])
    state = detector.state_dict()
    assert state["model.loss_normalizer"] != 100
    fresh = build_small(tmp_path, "retinanet")
    fresh.load_state_dict(state)
    assert fresh.model.loss_normalizer == detector.model.loss_normalizer


@pytest.mark.parametrize("kind", KINDS)
def test_cost_copies_and_predictions_include_every_part(tmp_path, kind):
    detector = build_small(tmp_path, kind, "input.test_size=64", interpolator=AFInterpolator(32, 1, 4))
    parts = {part.name: part for part in model_cost(detector, (64, 96))}
    inside = sum(p.numel() for p in detector.neck.interpolator.parameters())
    assert parts["interpolator"].parameters == inside
    assert sum(part.parameters for part in parts.values()) == sum(p.numel() for p in detector.parameters())
    assert all(part.multiply_adds > 0 for part in parts.values())
    with torch.no_grad():
        (before,) = detector([random_image(64, 96)])
        for twin in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
            (after,) = twin([random_image(64, 96)])
            assert all(torch.equal(after[name], value) for name, value in before.items())
    (detections,) = predict(detector, [random_image(128, 192)])
    assert len(detections["boxes"]) == 9
    assert detections["boxes"][:, 2].max() <= 192
    assert kind == "retinanet" or detections["masks"].shape == (9, 128, 192)


def test_files_of_old_versions_and_of_several_devices_load(tmp_path):
    """Frozen norms of old files have scale and shift only; PyTorch's wrapper puts a prefix before all names."""
    source, detector = build_small(tmp_path), build_small(tmp_path)
    for value in detector.parameters():
        value.data.zero_()
    old = {f"module.{k}": v for k, v in source.model.state_dict().items() if ".running_" not in k}
    torch.save({"model": old}, tmp_path / "old.pth")
    assert load_weights(detector, tmp_path / "old.pth").complete
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in detector.state_dict().items())
    wrong = {
        k: v for k, v in source.model.state_dict().items() if k != "backbone.bottom_up.stem.conv1.norm.running_var"
    }
    torch.save(wrong, tmp_path / "wrong.pth")
    assert load_weights(detector, tmp_path / "wrong.pth").missing == (
        "model.backbone.bottom_up.stem.conv1.norm.running_var",
    )


@pytest.mark.parametrize("pixels", ["BGR", "RGB"])
def test_pixel_statistics_in_a_file_are_compared_with_those_that_images_are_normalised_with(tmp_path, pixels):
    small_preset(tmp_path)
    path = tmp_path / "mask.yaml"
    path.write_text(path.read_text().replace("FORMAT: BGR", f"FORMAT: {pixels}"))

    def build(*overrides):
        return build_detector(load_preset(f"detectron2:{path}", overrides), 3)

    detector, other, present = build(), tmp_path / "other.pth", tmp_path / "present.pth"
    torch.save({**detector.model.state_dict(), "pixel_mean": torch.tensor([10.0, 20.0, 30.0])}, other)
    torch.save({**detector.model.state_dict(), "pixel_mean": detector.model.pixel_mean.flatten()}, present)
    assert load_weights(detector, present).complete
    with pytest.raises(UserError, match=r"other\.pth: .*another input\.mean than .*; add --set input\.mean=") as error:
        load_weights(detector, other)
    changed = build(str(error.value).rpartition("--set ")[2])
    rgb = [10, 20, 30][:: 1 if pixels == "RGB" else -1]
    assert (255 * changed.pixel_mean.flatten()).tolist() == pytest.approx(rgb, abs=1e-4)
    assert load_weights(changed, other).complete
    with pytest.raises(UserError, match=r"present\.pth: .*input\.mean"):
        load_weights(changed, present)


def old_file(path, source):
    """A file with the anchors of ``source``, as versions of detectron2 before 0.2 wrote it."""
    state = dict(source.model.state_dict())
    for prefix in ("proposal_generator.anchor_generator", "anchor_generator"):
        if prefix.split(".")[0] in dict(source.model.named_children()):
            cells = source.model.get_submodule(prefix).cell_anchors
            state |= {f"{prefix}.cell_anchors.{level}": cell for level, cell in enumerate(cells)}
    torch.save({"model": state}, path)
    return path


@pytest.mark.parametrize("kind", ["mask", "retinanet"])
def test_anchors_in_old_files_are_compared(tmp_path, kind):
    halved = "detector.anchor_sizes=[16,32,64,128,256]"
    path = old_file(tmp_path / "old.pth", build_small(tmp_path, kind, halved))
    assert load_weights(build_small(tmp_path, kind, halved), path).complete
    report = load_weights(build_small(tmp_path, kind), path)
    assert not report.complete
    assert report.matched
    assert report.differences == (("detector.anchor_sizes", (16, 32, 64, 128, 256)),)
    assert "detector.anchor_sizes=[16.0,32.0,64.0,128.0,256.0]" in str(report)
    initial = InitialWeights(weights=path)
    lines = load_initial_weights(build_small(tmp_path, kind), initial)
    assert any("another detector.anchor_sizes; --set detector.anchor_sizes=[16.0," in line for line in lines)


def test_ratios_and_lists_of_anchors_in_old_files_are_compared(tmp_path):
    ratios = {"ANCHOR_GENERATOR": {"ASPECT_RATIOS": [[0.5, 1.0, 3.0]]}}
    path = old_file(tmp_path / "old.pth", build_small(tmp_path, "mask", **ratios))
    assert load_weights(build_small(tmp_path), path).differences == (
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 3.0]]),
    )
    assert load_weights(build_small(tmp_path, "mask", **ratios), path).complete


@pytest.mark.parametrize(
    ("kind", "node", "key", "value"),
    [
        ("mask", "ROI_BOX_HEAD", "POOLER_TYPE", "ROIAlign"),
        ("mask", "ROI_BOX_HEAD", "POOLER_SAMPLING_RATIO", 2),
        ("mask", "ROI_BOX_HEAD", "BBOX_REG_WEIGHTS", [1.0, 1.0, 1.0, 1.0]),
        ("mask", "ROI_MASK_HEAD", "POOLER_TYPE", "ROIAlign"),
        ("mask", "RPN", "BBOX_REG_WEIGHTS", [2.0, 2.0, 2.0, 2.0]),
        ("retinanet", "RETINANET", "BBOX_REG_WEIGHTS", [2.0, 2.0, 2.0, 2.0]),
    ],
)
def test_poolers_and_box_weights_of_the_configuration_are_compared(tmp_path, kind, node, key, value):
    source = build_small(tmp_path, kind, **{node: {**SMALL.get(node, {}), key: value}})
    save_detector(tmp_path / "best.safetensors", source, {"classes": ["a", "b", "c"], "category_ids": [1, 2, 3]})
    report = load_weights(build_small(tmp_path, kind), tmp_path / "best.safetensors")
    assert report.differences == ((f"MODEL.{node}.{key}", value),)
    assert not report.complete
    assert len(report.matched) == len(source.state_dict())


def test_pixel_statistics_of_backbone_weights_are_compared_but_for_the_converted_deviation(tmp_path):
    import timm

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    same, other = (
        build_small(tmp_path, "mask", "backbone.stride_in_1x1=false", *settings)
        for settings in ((), ("input.mean=[0.4,0.4,0.4]",))
    )
    assert load_backbone_weights(same.backbone, tmp_path / "resnet18.pth", same.input).complete
    report = load_backbone_weights(other.backbone, tmp_path / "resnet18.pth", other.input)
    assert report.differences == (("input.mean", (0.485, 0.456, 0.406)),)
    assert not report.complete
