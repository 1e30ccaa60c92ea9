import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from afictl.interpolators import build_interpolator
from afictl.necks import build_neck
from afictl.necks.neck import upsample_to
from afictl.presets import FPNConfig
from afictl.weights.layouts.detectron2_names import fpn_key
from tests.helpers.backbone_maps import NARROW, RESNET50, features
from tests.helpers.golden_files import apply_rule_h, assert_golden


@pytest.mark.parametrize(
    ("fuse", "size", "prefix"), [("sum", (96, 128), "H.fpn"), ("avg", (64, 96), "H.fpn_avg_64x96")]
)
def test_pyramid_equals_reference(fuse, size, prefix):
    neck = build_neck(FPNConfig(fuse=fuse), RESNET50, build_interpolator("afi", 256))
    apply_rule_h(neck, fpn_key, "neck_fpn_afi")
    assert sum(p.numel() for p in neck.parameters()) == 11_179_008
    assert len(neck.state_dict()) == 39
    with torch.no_grad():
        pyramid = neck(features(RESNET50, *size))
    assert list(pyramid) == ["p2", "p3", "p4", "p5", "p6"]
    for level, value in pyramid.items():
        assert_golden("fpn", f"{prefix}.{level}", value)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(
    ("top", "above"), [("pool", LastLevelMaxPool()), ("p5", LastLevelP6P7(8, 8)), ("res5", LastLevelP6P7(10, 8))]
)
@pytest.mark.parametrize("size", [(96, 64), (100, 68), (75, 133), (33, 129)])
def test_nearest_equals_torchvision_on_any_size(size, top, above, norm):
    neck = build_neck(FPNConfig(channels=8, top=top, norm=norm), NARROW, build_interpolator("nearest", 8))
    sources = list(NARROW.items())[0 if top == "pool" else 1 :]
    norm_layer = nn.BatchNorm2d if norm == "batch" else None
    reference = FeaturePyramidNetwork([count for _, count in sources], 8, above, norm_layer)
    for convs, blocks in ((neck.lateral_convs, reference.inner_blocks), (neck.output_convs, reference.layer_blocks)):
        for conv, block in zip(convs.values(), blocks, strict=True):
            (block if norm == "batch" else block[0]).load_state_dict(conv.state_dict())
    if top != "pool":
        above.load_state_dict(neck.top.state_dict())
    maps = features(dict(sources), *size, images=2)
    for actual, expected in zip(neck(maps).values(), reference(maps).values(), strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kind", ["afi", "bilinear", "bicubic"])
def test_odd_sizes_lose_the_last_row_and_column(kind):
    neck = build_neck(FPNConfig(channels=8), NARROW, build_interpolator(kind, 8))
    maps = features(NARROW, 75, 133)
    pyramid = neck(maps)
    assert pyramid["p2"].shape[-2:] == maps["res2"].shape[-2:] == (19, 34)
    coarse, fine = torch.randn(1, 8, 2, 3), torch.randn(1, 8, 3, 5)
    expected = neck.interpolator(coarse)[..., :3, :5]
    torch.testing.assert_close(upsample_to(neck.interpolator, coarse, fine), expected)


def test_one_interpolator_upsamples_three_times_and_gets_the_fine_map():
    sizes = []

    class Spy(nn.Module):
        channels = 8

        def forward(self, coarse, fine):
            sizes.append((tuple(coarse.shape[-2:]), tuple(fine.shape[-2:])))
            return nn.functional.interpolate(coarse, scale_factor=2.0)

    build_neck(FPNConfig(channels=8), NARROW, Spy())(features(NARROW, 64, 96))
    assert sizes == [((2, 3), (4, 6)), ((4, 6), (8, 12)), ((8, 12), (16, 24))]
