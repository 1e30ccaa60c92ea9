import pytest
import torch
from torch.nn import functional as F

from afictl.interpolators import build_interpolator
from afictl.necks import PAFPN, build_neck
from afictl.presets import PAFPNConfig
from afictl.weights.layouts.detectron2_names import pafpn_key
from tests.helpers.backbone_maps import NARROW, RESNET50, features
from tests.helpers.golden_files import apply_rule_h, assert_golden


@pytest.mark.parametrize(
    ("fuse", "size", "prefix"), [("sum", (96, 128), "H.pafpn"), ("avg", (64, 96), "H.pafpn_avg_64x96")]
)
def test_pyramid_equals_reference(fuse, size, prefix):
    neck = build_neck(PAFPNConfig(fuse=fuse), RESNET50, build_interpolator("afi", 256))
    apply_rule_h(neck, pafpn_key, "neck_pafpn_afi")
    assert sum(p.numel() for p in neck.parameters()) == 12_949_248
    assert len(neck.state_dict()) == 45
    with torch.no_grad():
        pyramid = neck(features(RESNET50, *size))
    assert list(pyramid) == ["p2", "p3", "p4", "p5", "p6"]
    for level, value in pyramid.items():
        assert_golden("pafpn", f"{prefix}.{level}", value)


def test_activation_follows_the_norm_of_the_bottom_up_path():
    neck: PAFPN = build_neck(
        PAFPNConfig(channels=8, norm="batch", top="p5"), NARROW, build_interpolator("nearest", 8)
    ).eval()
    neck.output_convs = torch.nn.ModuleDict({level: torch.nn.Identity() for level in neck.output_convs})
    neck.downsample_convs["p4"][1].bias.data.fill_(0.5)
    maps = features(NARROW, 64, 64)
    pyramid = neck(maps)
    fused = neck.lateral_convs["p4"](maps["res4"]) + F.interpolate(
        neck.lateral_convs["p5"](maps["res5"]), scale_factor=2
    )
    torch.testing.assert_close(pyramid["p4"], fused + F.relu(neck.downsample_convs["p4"](pyramid["p3"])))
