import pytest
import torch

from afictl import AFInterpolator, UserError, build_interpolator, substitute_interpolator
from afictl.interpolators import PerStepInterpolator
from tests.helpers.detectron2_presets import SMALL_OPTIONS

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]

MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
FINE = ("MODEL.RPN.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"], "MODEL.ROI_HEADS.IN_FEATURES", ["p3", "p4", "p5"])


@pytest.fixture(scope="module", autouse=True)
def registered():
    pytest.importorskip("detectron2")
    import afictl.integrations.detectron2  # noqa: F401


def make_cfg(kind, *options, base=MASK, node=False):
    from detectron2 import model_zoo

    from afictl.integrations.detectron2 import add_afictl_config

    cfg = model_zoo.get_config(base, trained=False)
    if node:
        add_afictl_config(cfg)
    name = f"build_afictl_resnet_{kind}_backbone"
    cfg.merge_from_list([*SMALL_OPTIONS, "MODEL.RETINANET.NUM_CONVS", 1, "MODEL.BACKBONE.NAME", name, *options])
    return cfg


def build(*args, **kwargs):
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    return build_model(make_cfg(*args, **kwargs))


def batch():
    from detectron2.structures import BitMasks, Boxes, Instances

    masks = torch.zeros(1, 64, 70, dtype=torch.bool)
    masks[:, 10:50, 10:50] = True
    objects = Instances(
        (64, 70),
        gt_boxes=Boxes(torch.tensor([[10.0, 10, 50, 50]])),
        gt_classes=torch.tensor([0]),
        gt_masks=BitMasks(masks),
    )
    image = torch.randint(256, (3, 64, 70), generator=torch.Generator().manual_seed(0)).byte()
    return [{"image": image, "instances": objects}, {"image": image.flip(-1), "instances": objects}]


CASES = {
    "fpn": ("fpn", (), MASK, ["p2", "p3", "p4", "p5", "p6"], 32),
    "pafpn": ("pafpn", (), MASK, ["p2", "p3", "p4", "p5", "p6"], 32),
    "bifpn": ("bifpn", FINE, MASK, ["p3", "p4", "p5", "p6", "p7"], 128),
    "retinanet fpn": ("fpn", (), RETINANET, ["p3", "p4", "p5", "p6", "p7"], 32),
    "retinanet pafpn": ("pafpn", (), RETINANET, ["p3", "p4", "p5", "p6", "p7"], 32),
}


@pytest.mark.parametrize("case", CASES)
def test_registered_backbones_train_and_detect(case):
    from detectron2.utils.events import EventStorage

    kind, options, base, levels, divisor = CASES[case]
    model = build(kind, *options, base=base)
    backbone, losses = model.backbone, []
    assert list(backbone.output_shape()) == levels
    assert backbone.size_divisibility == divisor
    interpolator = next(module for module in model.modules() if isinstance(module, AFInterpolator))
    before = interpolator.tail.weight.clone()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3, momentum=0.9)
    with EventStorage():
        for _ in range(3):
            loss = sum(model(batch()).values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(loss.item())
    assert torch.tensor(losses).isfinite().all()
    assert not torch.equal(before, interpolator.tail.weight)
    assert not model.backbone.bottom_up.stem.conv1.weight.requires_grad  # MODEL.BACKBONE.FREEZE_AT
    with torch.no_grad():
        predictions = model.eval()(batch())
        maps = backbone(torch.zeros(1, 3, 128, 256))
    assert {"pred_boxes", "scores", "pred_classes"} <= set(predictions[0]["instances"].get_fields())
    assert {level: tuple(value.shape[1:]) for level, value in maps.items()} == {
        level: (16, 128 // shape.stride, 256 // shape.stride) for level, shape in backbone.output_shape().items()
    }


@pytest.mark.parametrize("base", [MASK, RETINANET])
def test_weights_of_detectron2s_pyramid_load_by_name(base):
    from detectron2.modeling import build_model

    cfg = make_cfg("fpn", base=base)
    cfg.MODEL.BACKBONE.NAME = f"build_{'retinanet_' if base == RETINANET else ''}resnet_fpn_backbone"
    original, model = build_model(cfg).eval(), build("fpn", base=base).eval()
    missing, unexpected = model.load_state_dict(original.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith("backbone.interpolator.") for name in missing)
    image = torch.linspace(-1, 1, 3 * 64 * 96).view(1, 3, 64, 96)
    model.backbone.interpolator = build_interpolator("nearest", 16)
    with torch.no_grad():
        for level, expected in original.backbone(image).items():
            assert torch.equal(model.backbone(image)[level], expected)


def test_interpolator_is_that_of_the_config_node(tmp_path):
    trained = AFInterpolator(16, blocks=1, growth=4)
    trained.save(tmp_path / "afi.safetensors")
    model = build("pafpn", "MODEL.AFICTL.INTERPOLATOR_FILE", str(tmp_path / "afi.safetensors"), node=True)
    interpolator = model.backbone.neck.interpolator
    assert interpolator.options == trained.options
    assert torch.equal(interpolator.tail.weight, trained.tail.weight)
    model = build("fpn", "MODEL.AFICTL.INTERPOLATOR", "bilinear", node=True)
    assert model.backbone.interpolator.kind == "bilinear"
    model = build("bifpn", *FINE, "MODEL.AFICTL.BIFPN.REPEATS", 2, "MODEL.AFICTL.BIFPN.FUSION", "raw", node=True)
    assert len(model.backbone.neck.layers) == 2


@pytest.mark.parametrize(
    ("kind", "options", "steps"),
    [
        ("fpn", (), 3),
        ("fpn", ("MODEL.AFICTL.TOP_DOWN_FROM", "p6"), 4),
        ("pafpn", ("MODEL.AFICTL.TOP_DOWN_FROM", "p6"), 4),
        ("bifpn", (*FINE, "MODEL.AFICTL.BIFPN.REPEATS", 2), 8),
    ],
)
def test_every_enlargement_of_a_registered_backbone_has_an_interpolator(kind, options, steps):
    model = build(kind, "MODEL.AFICTL.INTERPOLATORS", "per-step", *options, node=True)
    (interpolator,) = (module for module in model.modules() if isinstance(module, PerStepInterpolator))
    assert len(interpolator.steps) == steps
    maps = model.backbone(torch.zeros(2, 3, 128, 128))
    assert list(maps) == list(model.backbone.output_shape())
    sum(value.sum() for value in maps.values()).backward()
    assert all(step.tail.weight.grad is not None for step in interpolator.steps)
    assert model.backbone.size_divisibility == {"bifpn": 128}.get(kind, 64 if steps == 4 else 32)


def test_norm_and_fusion_are_those_of_the_config():
    neck = build("pafpn", "MODEL.FPN.NORM", "SyncBN", "MODEL.FPN.FUSE_TYPE", "avg").backbone.neck
    plain = build("pafpn", "MODEL.FPN.NORM", "BN").backbone.neck
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in neck.modules())
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in plain.modules())
    with pytest.raises(UserError, match=r"MODEL\.FPN\.NORM: .*'GN'"):
        build("pafpn", "MODEL.FPN.NORM", "GN")


def test_wrong_configurations_are_user_errors(tmp_path):
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "afi.safetensors")
    narrow = ("MODEL.AFICTL.INTERPOLATOR_FILE", str(tmp_path / "afi.safetensors"))
    for kind in ("fpn", "pafpn"):
        with pytest.raises(UserError, match="8 channels"):
            build(kind, *narrow, node=True)
    with pytest.raises(UserError, match=r"res4, res5.*OUT_FEATURES"):
        build("pafpn", "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"])
    with pytest.raises(UserError, match=r"res5 .*32"):
        build("pafpn", "MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES5_DILATION", 2)
    with pytest.raises(UserError, match=r"neck\.interpolators"):
        build("fpn", "MODEL.AFICTL.INTERPOLATORS", "each", node=True)
    with pytest.raises(UserError, match=r"neck\.fusion"):
        build("bifpn", "MODEL.AFICTL.BIFPN.FUSION", "slow", node=True)


@pytest.mark.parametrize("kind", ["pafpn", "bifpn"])
def test_interpolator_of_a_registered_backbone_is_replaced(kind):
    model = build(kind, *(FINE if kind == "bifpn" else ()))
    afi = AFInterpolator(16, blocks=1, growth=4)
    assert substitute_interpolator(model, afi) == {"pafpn": 3, "bifpn": 24}[kind]
    assert model.backbone.neck.interpolator is afi


def test_lazy_configs_instantiate_the_classes():
    from detectron2 import model_zoo
    from detectron2.config import LazyCall, instantiate

    from afictl.integrations.detectron2 import InterpolatedFPN, NeckBackbone

    model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
    image = torch.zeros(1, 3, 64, 64)
    model.backbone._target_ = InterpolatedFPN
    model.backbone.interpolator = LazyCall(AFInterpolator)(channels=256, blocks=1, growth=4)
    assert isinstance(instantiate(model).backbone.interpolator, AFInterpolator)
    bottom_up = model.backbone.bottom_up
    model.backbone = LazyCall(NeckBackbone)(
        bottom_up=bottom_up,
        interpolator=LazyCall(AFInterpolator)(channels=256, blocks=1, growth=4),
        kind="pafpn",
        fuse="avg",
    )
    with torch.no_grad():
        maps = instantiate(model.backbone)(image)
    assert [tuple(value.shape[2:]) for value in maps.values()] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
