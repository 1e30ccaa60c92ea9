import pytest
import torch

from afictl import AFInterpolator, UserError, build_interpolator, substitute_interpolator
from tests.helpers.detectron2_presets import SMALL_OPTIONS
from tests.helpers.substitution_checks import assert_equal

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2")

CASCADE = "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml"
MODELS = {
    "mask": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", (), 3),
    "keypoint": ("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml", (), 3),
    "cascade": (CASCADE, ("MODEL.FPN.FUSE_TYPE", "avg", "MODEL.FPN.NORM", "BN"), 3),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", (), 2),
    "fcos": ("COCO-Detection/fcos_R_50_FPN_1x.py", (), 2),
    "panoptic": ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml", (), 3),
}
DEEP = ("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256)  # the only depth of the C4 head


def build(config, options=()):
    from detectron2 import model_zoo
    from detectron2.config import instantiate
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    cfg = model_zoo.get_config(config, trained=False)
    if config.endswith(".py"):
        cfg = cfg.model
        cfg.test_score_thresh = 0.0
        return instantiate(cfg).eval()
    cfg.merge_from_list([*SMALL_OPTIONS, *options])
    return build_model(cfg).eval()


def inputs():
    from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks

    generator = torch.Generator().manual_seed(0)
    batch = []
    for size in ((64, 70), (61, 93)):
        objects = Instances(size)
        objects.gt_boxes = Boxes(torch.tensor([[10.0, 10, 50, 50]]))
        objects.gt_classes = torch.tensor([0])
        objects.gt_masks = PolygonMasks([[torch.tensor([10.0, 10, 50, 10, 50, 50, 10, 50]).double().numpy()]])
        objects.gt_keypoints = Keypoints(torch.full((1, 17, 3), 2.0) + 20)
        image = torch.randint(256, (3, *size), generator=generator).byte()
        batch.append({"image": image, "instances": objects, "sem_seg": torch.zeros(size).long()})
    return batch


@torch.no_grad()
def compute(model):
    maps = model.backbone(torch.linspace(-1, 1, 3 * 64 * 96).view(1, 3, 64, 96))
    return [*maps.values(), *(tensor for output in model(inputs()) for tensor in tensors_of(output))]


def tensors_of(output):
    fields = output["instances"].get_fields().values()
    instances = [getattr(field, "tensor", field) for field in fields]
    return [*instances, *([output["sem_seg"]] if "sem_seg" in output else [])]


def loss(model):
    from detectron2.utils.events import EventStorage

    with EventStorage():
        return sum(model(inputs()).values())


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_with_a_pyramid_is_substituted(kind, assert_substitutes):
    config, options, steps = MODELS[kind]
    model = build(config, options)
    channels = model.backbone.output_shape()["p5"].channels
    assert_substitutes(model, compute, lambda m: m.backbone, channels, steps, loss)


def test_convolutions_keep_their_names_and_order():
    model = build(MODELS["mask"][0])
    substitute_interpolator(model, AFInterpolator(16, blocks=1, growth=4))
    fpn = model.backbone
    for conv, level in zip(fpn.lateral_convs, (5, 4, 3, 2), strict=True):
        assert conv is fpn.get_submodule(f"fpn_lateral{level}")
    assert fpn.size_divisibility == 32
    assert fpn.output_shape()["p2"].channels == 16


def test_semantic_head_is_reached_with_a_probe():
    model = build(MODELS["panoptic"][0])
    before, classes = compute(model), [type(module) for module in model.modules()]
    result = substitute_interpolator(model, "dysample", probe=[{"image": torch.rand(3, 64, 96) * 255}])
    steps = {step.path: step.runs for step in result.replaced}
    assert steps.pop("backbone") == 3
    assert steps.keys() == {f"sem_seg_head.{name}" for name in ("p3.1", "p4.1", "p4.3", "p5.1", "p5.3", "p5.5")}
    assert any(step.path == "sem_seg_head" and "(x4)" in step.reason for step in result.unreached)
    loss(model.train()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "interpolators" in name)
    result.undo()
    assert [type(module) for module in model.modules()] == classes
    assert_equal(compute(model.eval()), before)


def test_simple_pyramid_of_vitdet_is_refused():
    from detectron2.modeling.backbone.vit import SimpleFeaturePyramid, ViT

    vit = ViT(img_size=32, embed_dim=8, depth=1, num_heads=1, out_feature="last", use_rel_pos=False)
    model = SimpleFeaturePyramid(vit, "last", 8, (2.0, 1.0), norm="LN")
    with pytest.raises(UserError, match=r"^SimpleFeaturePyramid "):
        substitute_interpolator(model, build_interpolator("nearest", 8))


def test_models_without_a_pyramid_and_other_widths_are_refused():
    without = build("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", DEEP)
    with pytest.raises(UserError, match=r"^GeneralizedRCNN "):
        substitute_interpolator(without, build_interpolator("nearest", 16))
    model = build(MODELS["mask"][0])
    with pytest.raises(UserError, match=r"8 channels.* 16"):
        substitute_interpolator(model, AFInterpolator(8, blocks=1, growth=4))


def test_derived_pyramid_is_refused():
    model = build(MODELS["mask"][0])
    model.backbone.__class__ = type("Special", (type(model.backbone),), {})
    with pytest.raises(UserError, match="Special"):
        substitute_interpolator(model, build_interpolator("nearest", 16))
