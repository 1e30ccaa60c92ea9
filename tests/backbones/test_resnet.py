import pytest
import timm
import torch
import torchvision

from afictl.weights.layouts.detectron2_names import BOTTOM_UP, resnest_key
from tests.helpers.backbones import build
from tests.helpers.golden_files import read_keys


def train_step(backbone):
    """One SGD step; returns the state before and after."""
    for name, value in backbone.state_dict().items():
        if name.endswith("weight") and value.ndim == 1:  # timm starts the last norm of a block at zero
            torch.nn.init.uniform_(value, 0.5, 1)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1, weight_decay=0.1)
    sum(level.mean() for level in backbone.train()(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    return before, backbone.state_dict()


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet34", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
        ("resnet101", (256, 512, 1024, 2048)),
    ],
)
def test_levels_have_the_documented_shapes(name, widths):
    with torch.device("meta"):
        backbone = build(name)
        maps = backbone(torch.zeros(1, 3, 128, 64))
    assert backbone.channels == dict(zip(("res2", "res3", "res4", "res5"), widths, strict=True))
    assert backbone.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    for level, value in maps.items():
        stride = backbone.strides[level]
        assert value.shape == (1, backbone.channels[level], 128 // stride, 64 // stride)


def test_features_equal_torchvision():
    reference = torchvision.models.resnet50(weights=None).eval()
    backbone = build("resnet50", norm="frozen-batch", frozen_stages=2)
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    backbone.net.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        stem = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        expected = reference.layer2(reference.layer1(stem))
    for maps in (backbone(image), backbone.train()(image)):
        torch.testing.assert_close(maps["res3"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("frozen_stages", "fixed"),
    [
        (0, ()),
        (1, ("conv1", "bn1")),  # the stem alone
        (2, ("conv1", "bn1", "layer1")),  # detectron2's FREEZE_AT 2
        (5, ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")),
    ],
)
def test_only_frozen_stages_do_not_change(frozen_stages, fixed):
    backbone = build(frozen_stages=frozen_stages)
    if frozen_stages == 5:
        assert not any(p.requires_grad for p in backbone.parameters())
        return
    before, after = train_step(backbone)
    for name, value in after.items():
        changed = not torch.equal(value, before[name])
        assert changed is not name.startswith(tuple(f"net.{part}." for part in fixed)), name


def test_frozen_batch_norm_keeps_statistics_scale_and_eps_in_every_stage():
    backbone = build(norm="frozen-batch")
    backbone.net.layer3[0].bn1.eps = 1e-3
    before, after = train_step(backbone)
    for name, value in after.items():
        is_norm = ".bn" in name or "downsample.1" in name
        assert torch.equal(value, before[name]) is is_norm, name


def test_stride_in_1x1_moves_the_stride_and_keeps_the_shapes():
    plain, moved = build("resnet50"), build("resnet50", stride_in_1x1=True)
    for stage in ("layer2", "layer3", "layer4"):
        assert (plain.net[stage][0].conv1.stride, plain.net[stage][0].conv2.stride) == ((1, 1), (2, 2))
        assert (moved.net[stage][0].conv1.stride, moved.net[stage][0].conv2.stride) == ((2, 2), (1, 1))
        assert moved.net[stage][1].conv1.stride == (1, 1)
    assert moved.net.layer1[0].conv1.stride == (1, 1)
    image = torch.randn(1, 3, 75, 64)
    with torch.no_grad():
        shapes = [[value.shape for value in net.eval()(image).values()] for net in (plain, moved)]
    assert shapes[0] == shapes[1]


def test_resnest_equals_timms_classifier():
    donor = timm.create_model("resnest26d").eval()
    backbone = build("resnest26d", norm="frozen-batch", frozen_stages=2).eval()
    backbone.net.load_state_dict(backbone.convert_classifier(donor.state_dict()), strict=False)
    image = torch.randn(1, 3, 75, 98)
    with torch.no_grad():
        expected = donor.forward_intermediates(image, indices=[1, 2, 3, 4], intermediates_only=True)
        for actual, level in zip(backbone(image).values(), expected, strict=True):
            torch.testing.assert_close(actual, level, rtol=1e-4, atol=1e-5)


def test_resnest_101_has_the_tensors_of_the_reference():
    with torch.device("meta"):
        backbone = build("resnest101e.in1k", frozen_stages=2)
    shapes = {
        BOTTOM_UP + resnest_key(name): value.shape for name, value in backbone.net.state_dict().items() if value.ndim
    }
    keys = read_keys("afi_cascade_mask_ResNeSt101_PAFPN")
    bottom_up = {name: key for name, key in keys.items() if name.startswith(BOTTOM_UP)}
    assert shapes == {name: key.shape for name, key in bottom_up.items() if key.is_float}
    # the convolutions of stem and res2, which the reference does not train
    assert sum(value.numel() for value in backbone.parameters() if not value.requires_grad) == 364_704
