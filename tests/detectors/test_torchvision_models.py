import copy
import pickle

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.roi_heads import paste_masks_in_image

from afictl import AFInterpolator, UserError, build_detector, load_preset, predict, substitute_interpolator
from afictl.backbones.norms import FrozenBatchNorm
from afictl.data.transforms import resize_for
from afictl.detectors import model_cost
from afictl.interpolators import build_interpolator, interpolator_kinds
from afictl.presets import list_torchvision_presets
from tests.helpers.slow_cases import others_slow
from tests.helpers.targets import no_object, one_object, random_image

NAMES = [name.partition(":")[2] for name in list_torchvision_presets()]
TRAINED = ("maskrcnn_resnet50_fpn", "fcos_resnet50_fpn")
"""Models with all kinds of heads, which are trained in every run of the tests; the others in the slow one."""
COMPARED = ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")
"""Models with all kinds of layers, which are compared in every run of the tests; the others in the slow one."""
MASK = "torchvision:maskrcnn_resnet50_fpn"
LIMITS = (
    "detector.roi_batch=16",
    "detector.proposals_train=50",
    "detector.proposals_test=40",
    "detector.max_detections=9",
)
TORCHVISION_LIMITS = {"rpn_post_nms_top_n_test": 40, "box_detections_per_img": 9}


def is_dense(name):
    return name.startswith(("retinanet", "fcos"))


def limits(name):
    return () if is_dense(name) else LIMITS


def reference(name, **settings):
    """torchvision's model, with varied scores, and scores of zero for its index 0."""
    torch.manual_seed(0)
    settings |= {"score_thresh": 0.05} if is_dense(name) else TORCHVISION_LIMITS
    model = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=4, **settings).eval()
    if is_dense(name):
        model.head.classification_head.cls_logits.weight.data *= 30
        model.head.classification_head.cls_logits.bias.data.view(-1, 4)[:, 0] = -1e4
    return model


def build(name, *overrides, interpolator="nearest", weights_of=None):
    detector = build_detector(load_preset(f"torchvision:{name}", overrides), 3, interpolator).eval()
    if weights_of is not None:
        missing, unexpected = detector.model.load_state_dict(weights_of.state_dict(), strict=False)
        assert not unexpected
        assert all(".interpolator." in key for key in missing)
    return detector


@torch.no_grad()
@pytest.mark.parametrize("name", others_slow(NAMES, COMPARED))
def test_detections_are_torchvisions_bit_for_bit(name):
    # torchvision's transform does not resize an image of exactly this size.
    model = reference(name, min_size=61, max_size=83)
    detector = build(name, *limits(name), "detector.score_threshold=0.05", weights_of=model)
    (expected,), (detections,) = model([random_image(61, 83)]), detector([random_image(61, 83)])
    if "masks" in expected:
        expected["masks"] = expected["masks"][:, 0] > 0.5
        assert expected["masks"].any()
    assert detections.keys() == expected.keys()
    assert len(detections["boxes"]) >= 9
    assert all(torch.equal(detections[key], expected[key]) for key in expected)


@torch.no_grad()
def test_two_images_of_different_sizes_are_padded_as_torchvision_pads():
    model, pictures = reference("fasterrcnn_resnet50_fpn"), [random_image(61, 83), random_image(70, 40)]
    model.transform.resize = lambda picture, target=None: (picture, target)
    detector = build("fasterrcnn_resnet50_fpn", *LIMITS, weights_of=model)
    for detections, expected in zip(detector(pictures), model(pictures), strict=True):
        assert all(torch.equal(detections[key], expected[key]) for key in expected)


@torch.no_grad()
def test_scales_of_pooling_do_not_depend_on_the_first_image():
    model = reference("fasterrcnn_resnet50_fpn")
    first, second = (build("fasterrcnn_resnet50_fpn", *LIMITS, weights_of=model) for _ in range(2))
    first([random_image(33, 33)])
    (detections,), (expected,) = first([random_image(64, 64)]), second([random_image(64, 64)])
    assert all(torch.equal(detections[key], expected[key]) for key in expected)
    assert first.model.roi_heads.box_roi_pool.scales == [0.25, 0.125, 0.0625, 0.03125]


@torch.no_grad()
def test_masks_on_the_original_pixels_are_pasted_as_torchvision_does():
    detector = build(
        "maskrcnn_resnet50_fpn", *LIMITS, "input.test_size=64", weights_of=reference("maskrcnn_resnet50_fpn")
    )
    picture = random_image(128, 192)
    (predictions,), (resized,) = predict(detector, [picture]), detector.detect([resize_for(detector.input, picture)])
    expected = paste_masks_in_image(resized["mask_probs"][:, None], predictions["boxes"], (128, 192))[:, 0] > 0.5
    assert expected.any()
    assert torch.equal(predictions["masks"], expected)


@pytest.mark.parametrize("name", others_slow(NAMES, TRAINED))
def test_every_part_gets_a_gradient_also_without_objects_and_under_autocast(name):
    torch.manual_seed(0)
    detector = build(name, *limits(name), "backbone.frozen_stages=4", interpolator=AFInterpolator(256, 1, 8)).train()
    pictures, targets = [random_image(64, 70), random_image(61, 90)], [one_object(64, 70), no_object(61, 90)]
    with torch.autocast("cpu", torch.bfloat16):
        losses, pyramid = detector.losses_and_pyramid(pictures, targets)
    assert list(pyramid) == list(detector.neck.strides)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    assert all(key.startswith("loss_") for key in losses)
    sum(losses.values()).backward()
    without_gradient = {key for key, value in detector.named_parameters() if value.requires_grad and value.grad is None}
    assert not without_gradient
    assert all(p.grad.abs().sum() > 0 for p in detector.neck.interpolator.parameters())
    losses = detector(pictures, [no_object(64, 70), no_object(61, 90)])
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_a_wrong_target_is_named(name):
    detector = build(name).train()
    with pytest.raises(ValueError, match="target 0: label 4"):
        detector([random_image(64, 64)], [one_object(64, 64, label=4)])


@torch.no_grad()
@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_index_0_of_dense_models_is_no_label(name):
    model = reference(name)
    model.head.classification_head.cls_logits.bias.data.view(-1, 4)[:, 0] = 5  # the highest score everywhere
    (detections,) = build(name, "detector.score_threshold=0.0", weights_of=model)([random_image(64, 64)])
    assert len(detections["labels"])
    assert set(detections["labels"].tolist()) <= {1, 2, 3}


@pytest.fixture(scope="module")
def faster_rcnn():
    return build("fasterrcnn_resnet50_fpn")


@torch.no_grad()
@pytest.mark.parametrize("kind", others_slow(interpolator_kinds(), ("nearest", "afi", "dysample", "fade")))
def test_every_interpolator_kind_is_built_and_substituted(kind, faster_rcnn):
    with torch.device("meta"):
        detector = build("fasterrcnn_resnet50_fpn", interpolator=kind)
    assert detector.neck.interpolator.kind == detector.preset.interpolator.kind == kind
    assert detector.interpolator_prefix == "model.backbone.fpn.interpolator."
    assert detector.neck.num_upsamplers == 3
    new, calls = build_interpolator(kind, 256), []
    new.register_forward_hook(lambda *_: calls.append(1))
    assert substitute_interpolator(faster_rcnn, new) == 3
    assert faster_rcnn.neck.interpolator is new
    assert faster_rcnn.preset.interpolator.options == new.options
    assert faster_rcnn.pyramid([random_image(64, 64)])["p2"].isfinite().all()
    assert len(calls) == 3


@torch.no_grad()
def test_another_interpolator_changes_the_pyramid(faster_rcnn):
    levels, image = [], random_image(64, 64)
    for kind in ("nearest", "bilinear"):
        substitute_interpolator(faster_rcnn, build_interpolator(kind, 256))
        levels.append(faster_rcnn.pyramid([image])["p2"])
    assert not torch.equal(*levels)


@torch.no_grad()
def test_copies_share_no_parts():
    detector = build("fasterrcnn_resnet50_fpn", interpolator="bicubic")
    before = detector.pyramid([random_image(64, 64)])["p2"]
    for twin in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        substitute_interpolator(twin, AFInterpolator(256, blocks=1, growth=4))
        assert twin.neck.interpolator.kind == "afi"
        assert detector.neck.interpolator.kind == "bicubic"
        assert torch.equal(detector.pyramid([random_image(64, 64)])["p2"], before)


@torch.no_grad()
@pytest.mark.parametrize("name", others_slow(NAMES, COMPARED))
def test_strides_and_channels_are_those_of_the_maps(name):
    with torch.device("meta"):
        detector = build(name)
        picture = torch.empty(1, 3, 256, 512)
    for part, inputs in ((detector.backbone, picture), (detector.neck, detector.backbone(picture))):
        maps = part(inputs)
        assert list(maps) == list(part.strides)
        for level, value in maps.items():
            stride = part.strides[level]
            channels = part.channels if isinstance(part.channels, int) else part.channels[level]
            assert value.shape == (1, channels, 256 // stride, 512 // stride)


@pytest.mark.parametrize("name", others_slow(NAMES, COMPARED))
def test_class_layers_are_what_depends_on_the_classes(name):
    with torch.device("meta"):
        three, seven = (build_detector(f"torchvision:{name}", count) for count in (3, 7))
    shapes = {key: value.shape for key, value in seven.state_dict().items()}
    differing = {key for key, value in three.state_dict().items() if value.shape != shapes[key]}
    assert differing
    assert all(key.startswith(three.class_layers) for key in differing)


@pytest.mark.parametrize("name", others_slow(NAMES, COMPARED))
def test_cost_counts_every_parameter(name):
    with torch.device("meta"):
        detector = build_detector(f"torchvision:{name}", 90, "nearest")
    costs = {part.name: part for part in model_cost(detector, (800, 800))}
    assert sum(part.parameters for part in costs.values()) == sum(p.numel() for p in detector.parameters())
    assert costs["interpolator"].multiply_adds == 0
    assert all(part.multiply_adds > 0 for key, part in costs.items() if key != "interpolator")


def test_frozen_stages_of_the_backbone_have_frozen_norms():
    detector = build("fasterrcnn_resnet50_fpn_v2", "backbone.frozen_stages=3")
    body = detector.model.backbone.body
    learning = {key.split(".")[0] for key, value in body.named_parameters() if value.requires_grad}
    assert learning == {"layer3", "layer4"}
    assert isinstance(body.bn1, FrozenBatchNorm)
    assert isinstance(body.layer2[0].bn1, FrozenBatchNorm)
    assert isinstance(body.layer3[0].bn1, torch.nn.BatchNorm2d)
    frozen = build("fasterrcnn_resnet50_fpn").model.backbone.body
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in frozen.modules())


def test_settings_reach_the_model():
    detector = build("maskrcnn_resnet50_fpn_v2", *LIMITS, "detector.anchor_sizes=[16, 32, 64, 128, 256]")
    heads, rpn = detector.model.roi_heads, detector.model.rpn
    assert heads.fg_bg_sampler.batch_size_per_image == 16
    assert heads.detections_per_img == 9
    assert rpn.post_nms_top_n() == 40
    assert rpn.anchor_generator.sizes == ((16,), (32,), (64,), (128,), (256,))
    assert len(detector([random_image(64, 64)])[0]["boxes"]) <= 9


def test_anchors_of_the_presets_are_torchvisions():
    for name in NAMES:
        with torch.device("meta"):
            model, detector = reference(name), build(name)
        anchors, expected = ((m if is_dense(name) else m.rpn).anchor_generator for m in (detector.model, model))
        assert all(torch.equal(a, b) for a, b in zip(anchors.cell_anchors, expected.cell_anchors, strict=True))


@pytest.mark.parametrize(
    ("preset", "overrides", "fact"),
    [
        ("torchvision:ssd300_vgg16", (), "'ssd300_vgg16'"),
        ("torchvision:maskrcnn_resnet50_fpn_v3", (), "'maskrcnn_resnet50_fpn_v2'"),
        ("torchvision:", (), "'';"),
        (MASK, ("neck.channels=64",), r"neck\.channels .*64"),
        (MASK, ("neck.kind=bifpn",), r"neck\.kind .*'fpn'"),
        (MASK, ("backbone.name=resnet18",), r"backbone\.name .*'resnet50\.tv_in1k'"),
        (MASK, ("detector.segments=false",), r"detector\.segments .*True"),
        ("torchvision:fcos_resnet50_fpn", ("detector.rpn_batch=64",), r"detector\.rpn_batch .*256"),
        (MASK, ("detector.source=maskrcnn",), "'maskrcnn'"),
        ("faster-rcnn-r18-fpn-tiny", ("detector.kind=torchvision",), "'';"),
    ],
)
def test_impossible_settings_are_user_errors(preset, overrides, fact):
    with pytest.raises(UserError, match=fact) as error:
        build_detector(load_preset(preset, overrides), 3)
    assert "\n" not in str(error.value)


def test_an_interpolator_of_another_width_is_refused():
    with pytest.raises(UserError, match="16 channels"):
        build_detector(MASK, 3, AFInterpolator(16, blocks=1, growth=4))


def test_another_tag_of_the_same_backbone_is_accepted():
    detector = build("fasterrcnn_resnet50_fpn", "backbone.name=resnet50.a1_in1k")
    assert detector.backbone.name == "resnet50.a1_in1k"


def test_images_outside_0_to_1_are_refused_as_by_every_detector():
    detector = build(NAMES[0])
    for image in (random_image(40, 40) * 255, torch.full((3, 40, 40), torch.nan), torch.rand(4, 40, 40)):
        with pytest.raises(UserError, match="image 0: "):
            predict(detector, [image])
        with pytest.raises(UserError, match="image 0: "):
            detector([image])
    assert predict(detector, []) == detector([]) == []
