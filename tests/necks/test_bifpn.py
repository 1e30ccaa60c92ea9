import pytest
import torch
from torch.nn import functional as F

from afictl.interpolators import build_interpolator
from afictl.necks import BiFPN, build_neck
from afictl.necks.bifpn import FusionNode, downsample
from afictl.presets import BiFPNConfig
from afictl.weights.layouts.detectron2_names import bifpn_key
from tests.helpers.backbone_maps import NARROW, SWIN_L, features
from tests.helpers.golden_files import apply_rule_h, assert_golden, golden_names, read_keys

AFI_GAN = BiFPNConfig(fusion="raw", skips="input", blocks="separable", repeats=7)


@pytest.fixture(scope="module")
def reference() -> BiFPN:
    """The neck of the published AFI-GAN's Swin-L detector."""
    neck = build_neck(AFI_GAN, SWIN_L, build_interpolator("afi", 256))
    apply_rule_h(neck, bifpn_key, "neck_bifpn_afi_swinL")
    return neck.eval()


def narrow(interpolator: str = "nearest", **settings) -> BiFPN:
    torch.manual_seed(0)
    config = BiFPNConfig(channels=8, **settings)
    return build_neck(config, NARROW, build_interpolator(interpolator, 8))


def test_parameters_are_those_of_the_reference(reference):
    assert sum(p.numel() for p in reference.parameters()) == 13_352_581
    assert sorted(map(bifpn_key, reference.state_dict())) == list(read_keys("neck_bifpn_afi_swinL"))


def test_inner_maps_and_pyramid_equal_reference(reference):
    inner_maps = {}
    hooks = [
        node.register_forward_hook(lambda *call, name=name: inner_maps.update({name: call[-1]}))
        for index, layer in enumerate(reference.layers[:2])
        for path, direction in (("top_down", "up"), ("bottom_up", "down"))
        for level, node in layer.get_submodule(path).items()
        for name in [f"L{index}.conv{level[1]}_{direction}"]
    ]
    maps = features(SWIN_L, 128, 128)
    with torch.no_grad():
        pyramid = reference(maps)
        laterals, skips = reference.inputs(maps)
    for hook in hooks:
        hook.remove()
    inner_maps |= {f"before.{level}": value for level, value in laterals.items()}
    inner_maps |= {f"before.{level}_skip": skips[level] for level in ("p4", "p5")}
    maps = pyramid | {f"inter.{name}": value for name, value in inner_maps.items()}
    prefix = "H.bifpn_128x128."
    assert sorted(maps) == sorted(name.removeprefix(prefix) for name in golden_names("bifpn", prefix))
    for name, value in maps.items():
        assert_golden("bifpn", prefix + name, value)


def test_wide_pyramid_equals_reference(reference):
    with torch.no_grad():
        pyramid = reference(features(SWIN_L, 128, 256))
    assert list(pyramid) == ["p3", "p4", "p5", "p6", "p7"]
    for level, value in pyramid.items():
        assert_golden("bifpn", f"H.bifpn_128x256.{level}", value)


@pytest.mark.parametrize(("blocks", "eps"), [("separable", 1e-3), ("plain", 1e-5)])
def test_norms_are_those_of_the_published_forms(blocks, eps):
    neck = narrow(blocks=blocks, repeats=1)
    assert neck.layers[0].top_down["p6"].block[-1].eps == neck.inputs.laterals["p5"][1].eps == eps
    assert neck.inputs.laterals["p6"][1].eps == 1e-5
    assert all(conv.bias is None for conv in neck.layers.modules() if getattr(conv, "kernel_size", 0) == (3, 3))


@pytest.mark.parametrize("fusion", ["raw", "fast"])
def test_fusion_sums_weighted_maps_before_swish_and_convolution(fusion):
    node = FusionNode(8, 3, fusion, "plain").eval()
    with torch.no_grad():
        node.weights.copy_(torch.tensor([2.0, -1.0, 3.0]))
    weights = {"raw": [2.0, -1.0, 3.0], "fast": [2 / 5.0001, 0.0, 3 / 5.0001]}[fusion]
    maps = torch.randn(3, 1, 8, 4, 5)
    expected = sum(weight * value for weight, value in zip(weights, maps, strict=True))
    torch.testing.assert_close(node(*maps), node.block[1:](expected * expected.sigmoid()))


def test_initial_fast_weights_are_equal_and_sum_to_one():
    weights = narrow(fusion="fast").layers[0].bottom_up["p5"].normalized_weights()
    torch.testing.assert_close(weights, torch.full((3,), 1 / 3), rtol=1e-4, atol=0)


def test_pooling_rounds_up_and_pads_as_the_published_forms_do():
    x = torch.tensor([[-9.0, -1.0, -5.0, -2.0]]).expand(1, 1, 4, 4)
    assert downsample(x, "plain").tolist() == [[[[-1.0, -1.0]] * 2]]
    assert downsample(x, "separable").tolist() == [[[[-1.0, 0.0], [0.0, 0.0]]]]
    for size in (1, 2, 3, 4, 7):
        for blocks in ("plain", "separable"):
            assert downsample(torch.rand(1, 2, size, 8), blocks).shape == (1, 2, (size + 1) // 2, 4)
    # an odd map is pooled as if one more row and column of zeros belonged to it
    odd = torch.rand(1, 2, 5, 7)
    assert downsample(odd, "separable").equal(downsample(F.pad(odd, (0, 1, 0, 1)), "separable"))


@pytest.mark.parametrize("skips", ["layer", "input"])
def test_bottom_up_paths_of_later_layers_get_the_skips_of_the_setting(skips):
    neck = narrow(skips=skips, repeats=3).eval()
    inputs = []
    for layer in neck.layers:
        layer.register_forward_pre_hook(lambda _, call: inputs.append(call[:2]))
    neck(features(NARROW, 128, 128))
    (first, projected), *later = inputs
    assert projected["p5"] is not first["p5"]
    assert projected["p7"] is first["p7"]
    for maps, skip_maps in later:
        assert skip_maps is (first if skips == "input" else maps)
        assert maps is not first
