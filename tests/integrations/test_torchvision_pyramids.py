import subprocess
import sys

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from afictl import AFInterpolator, UserError, build_interpolator, substitute_interpolator
from tests.helpers.slow_cases import others_slow

SMALL = {"num_classes": 3, "min_size": 64, "max_size": 96}


def r_cnn(kind, **options):
    few = {"box_detections_per_img": 3, "box_batch_size_per_image": 8}
    narrow = {"box_head": TwoMLPHead(256 * 7 * 7, 16), "box_predictor": FastRCNNPredictor(16, 3)}
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return kind(backbone, None, min_size=64, max_size=96, **few, **narrow, **options)


def keypoint_r_cnn():
    head, predictor = KeypointRCNNHeads(256, (16,)), KeypointRCNNPredictor(16, 2)
    return r_cnn(detection.KeypointRCNN, keypoint_head=head, keypoint_predictor=predictor)


def mask_r_cnn():
    head, predictor = MaskRCNNHeads(256, (16,), 1), MaskRCNNPredictor(16, 16, 3)
    return r_cnn(detection.MaskRCNN, mask_head=head, mask_predictor=predictor)


def dense(kind, **options):
    top = LastLevelP6P7(256, 256)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=top)
    return kind(backbone, score_thresh=0, **SMALL, **options)


MODELS = {
    "faster": (lambda: r_cnn(detection.FasterRCNN), 3),
    "mask": (mask_r_cnn, 3),
    "keypoint": (keypoint_r_cnn, 3),
    "retinanet": (lambda: dense(detection.RetinaNet), 2),
    "fcos": (lambda: dense(detection.FCOS), 2),
}


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((64, 70), (61, 93))]


def targets():
    masks = torch.zeros(1, 64, 70, dtype=torch.uint8)
    masks[0, 10:50, 10:50] = 1
    keypoints = torch.tensor([[[20.0, 20, 1], [40, 40, 1]]])
    target = {"boxes": torch.tensor([[10.0, 10, 50, 50]]), "labels": torch.tensor([1])}
    target |= {"masks": masks, "keypoints": keypoints}
    return [target, target | {"masks": torch.nn.functional.pad(masks, (0, 23, 0, -3))}]


@torch.no_grad()
def compute(model):
    maps = model.backbone(torch.stack([image[:, :61, :70] for image in images()]))
    return [*maps.values(), *(tensor for detections in model(images()) for tensor in detections.values())]


@pytest.mark.parametrize("kind", others_slow(MODELS, ("mask", "retinanet")))
def test_every_model_with_a_pyramid_is_substituted(kind, assert_substitutes):
    torch.manual_seed(0)
    make, steps = MODELS[kind]
    assert_substitutes(
        make().eval(), compute, lambda m: m.backbone.fpn, 256, steps, lambda m: sum(m(images(), targets()).values())
    )


def test_pyramid_with_batch_norm_gives_the_same_maps():
    torch.manual_seed(0)
    model = detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **SMALL).eval()
    image = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        before = model.backbone(image)
        assert substitute_interpolator(model, build_interpolator("nearest", 256)) == 3
        after = model.backbone(image)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("size", [(7, 5), (8, 5), (1, 1)])
def test_odd_maps_are_upsampled_as_by_torchvision(size):
    fpn = FeaturePyramidNetwork([2, 3], 4)
    coarse = [(side + 1) // 2 for side in size]
    maps = {"fine": torch.randn(1, 2, *size), "coarse": torch.randn(1, 3, *coarse)}
    before = fpn(maps)
    assert substitute_interpolator(fpn, build_interpolator("nearest", 4)) == 1
    assert all(torch.equal(before[name], after) for name, after in fpn(maps).items())


def test_interpolator_gets_dtype_and_mode_of_the_pyramid():
    fpn = FeaturePyramidNetwork([2, 3], 4).double().eval()
    afi = AFInterpolator(4, blocks=1, growth=4)
    substitute_interpolator(fpn, afi)
    assert {p.dtype for p in fpn.parameters()} == {torch.float64}
    assert not afi.training


def test_every_pyramid_in_a_model_is_counted_once():
    fpn = FeaturePyramidNetwork([2, 3, 4], 4)
    model = torch.nn.ModuleList([fpn, fpn, FeaturePyramidNetwork([2, 3], 4)])
    assert substitute_interpolator(model, AFInterpolator(4, blocks=1, growth=4)) == 3
    assert model[0].interpolator is model[2].interpolator


def test_module_without_channels_is_accepted():
    class Doubled(torch.nn.Module):
        def forward(self, coarse, fine):
            return coarse.repeat_interleave(2, -2).repeat_interleave(2, -1)

    fpn = FeaturePyramidNetwork([2, 3], 4)
    assert substitute_interpolator(fpn, Doubled()) == 1
    assert fpn({"a": torch.zeros(1, 2, 4, 4), "b": torch.zeros(1, 3, 2, 2)})["a"].shape == (1, 4, 4, 4)


def test_mobilenet_pyramid_with_maps_of_one_size_is_refused():
    make = detection.fasterrcnn_mobilenet_v3_large_fpn
    model = make(weights=None, weights_backbone=None, **SMALL).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match="8x8 to 8x8"):
        substitute_interpolator(model, build_interpolator("nearest", 256))
    assert type(model.backbone.fpn) is FeaturePyramidNetwork
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_step_that_is_not_twofold_is_an_error_in_forward():
    fpn = FeaturePyramidNetwork([2, 3], 4)
    substitute_interpolator(fpn, build_interpolator("nearest", 4))
    with pytest.raises(UserError, match="2x2 to 8x8"):
        fpn({"fine": torch.zeros(1, 2, 8, 8), "coarse": torch.zeros(1, 3, 2, 2)})


def test_models_without_a_pyramid_are_refused():
    ssd = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    for model in (ssd, torch.nn.Linear(1, 1), FeaturePyramidNetwork([2], 4)):
        with pytest.raises(UserError, match=f"^{type(model).__name__} "):
            substitute_interpolator(model, build_interpolator("nearest", 4))


def test_interpolator_of_another_width_leaves_the_model_unchanged():
    model = torch.nn.ModuleList([FeaturePyramidNetwork([2, 3], 4), FeaturePyramidNetwork([2, 3], 8)])
    with pytest.raises(UserError, match=r"4 channels.* 8"):
        substitute_interpolator(model, AFInterpolator(4, blocks=1, growth=4))
    assert {type(fpn) for fpn in model} == {FeaturePyramidNetwork}


def test_derived_pyramid_is_refused():
    class Special(FeaturePyramidNetwork):
        pass

    with pytest.raises(UserError, match="Special"):
        substitute_interpolator(Special([2, 3], 4), build_interpolator("nearest", 4))


@pytest.mark.parametrize(
    ("model", "interpolator", "name"),
    [
        (FeaturePyramidNetwork([2, 3], 4), 4, "interpolator"),
        (FeaturePyramidNetwork([2, 3], 4), lambda channels: channels, "factory"),
        ("faster-rcnn", build_interpolator("nearest", 4), "model"),
    ],
)
def test_arguments_that_are_no_modules_are_named(model, interpolator, name):
    with pytest.raises(UserError, match=f"{name} .*[mM]odule"):
        substitute_interpolator(model, interpolator)


def test_pyramids_of_several_widths_take_a_kind_or_a_factory():
    model = torch.nn.ModuleList([FeaturePyramidNetwork([2, 3], 4), FeaturePyramidNetwork([2, 3, 5], 8)])
    for interpolator in ("dysample", lambda channels: build_interpolator("dysample", channels)):
        result = substitute_interpolator(model, interpolator)
        assert [fpn.interpolator.channels for fpn in model] == [4, 8]
        assert [(step.path, step.channels, step.runs) for step in result.replaced] == [("0", 4, 1), ("1", 8, 2)]
    substitute_interpolator(model, "dysample", per_step=True)
    assert [len(fpn.interpolator.steps) for fpn in model] == [1, 2]


def test_undo_restores_the_pyramid_and_what_it_held_before():
    fpn = FeaturePyramidNetwork([2, 3], 4)
    first = substitute_interpolator(fpn, build_interpolator("dysample", 4))
    dysample = fpn.interpolator
    second = substitute_interpolator(fpn, "carafe")
    with pytest.raises(UserError, match="later"):
        first.undo()
    second.undo()
    assert fpn.interpolator is dysample
    first.undo()
    assert type(fpn) is FeaturePyramidNetwork
    assert "interpolator" not in dict(fpn.named_children())


def test_enlargements_beside_a_pyramid_are_named_and_with_a_probe_replaced():
    class Segmentation(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fpn = FeaturePyramidNetwork([2, 3], 4)
            self.head = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), torch.nn.Upsample(scale_factor=2))

        def forward(self, fine, coarse):
            logits = self.head(self.fpn({"fine": fine, "coarse": coarse})["fine"])
            return torch.nn.functional.interpolate(logits, scale_factor=2)

    model, probe = Segmentation(), (torch.rand(1, 2, 8, 12), torch.rand(1, 3, 4, 6))
    before = model(*probe)
    without = substitute_interpolator(model, "nearest")
    assert without == 1
    assert [step.path for step in without.unreached] == ["head.1"]
    without.undo()
    result = substitute_interpolator(model, "nearest", probe=probe)
    assert [(step.path, step.channels) for step in result.replaced] == [("fpn", 4), ("head.1", 8)]
    assert [step.path for step in result.unreached] == [""]  # its call is beside those of the pyramid's interpolator
    assert torch.equal(model(*probe), before)
    result.undo()
    for guided in (build_interpolator("sapa", 4), "sapa"):  # the pyramid has the fine map
        result = substitute_interpolator(model, guided, probe=probe)
        assert [step.path for step in result.replaced] == ["fpn"]
        assert {step.path for step in result.unreached} == {"", "head.1"}
        assert type(model.head[1]) is torch.nn.Upsample


def test_detectron2_is_not_imported_for_other_models():
    code = (
        "import sys, afictl\n"
        "from torchvision.ops import FeaturePyramidNetwork\n"
        "nearest = afictl.build_interpolator('nearest', 4)\n"
        "print(afictl.substitute_interpolator(FeaturePyramidNetwork([2, 3], 4), nearest), 'detectron2' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.split() == ["1", "False"]
