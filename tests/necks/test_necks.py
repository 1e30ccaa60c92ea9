"""Every neck: levels, sizes, gradients and calls of the interpolator."""

import pytest
import torch

from afictl import UserError
from afictl.interpolators import build_interpolator, interpolator_kinds
from afictl.necks import build_neck, input_levels, pyramid_strides
from afictl.presets import FPNConfig, parse_neck
from tests.helpers.backbone_maps import NARROW, features

AFI_GAN = {"kind": "bifpn", "fusion": "raw", "skips": "input", "blocks": "separable"}
SETTINGS = [
    {"kind": kind, "top": top, "norm": norm, "fuse": fuse}
    for kind in ("fpn", "pafpn")
    for top, norm, fuse in (("pool", "none", "sum"), ("p5", "batch", "avg"), ("res5", "none", "sum"))
]
SETTINGS += [
    {"kind": "bifpn", "repeats": 2},
    {**AFI_GAN, "repeats": 3},
    {**AFI_GAN, "repeats": 1},
    {"kind": "bifpn", "repeats": 2, "skips": "input"},
]
every_neck = pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))


def build(settings, interpolator="nearest"):
    torch.manual_seed(0)
    config = parse_neck({"channels": 8, **settings})
    return build_neck(config, NARROW, build_interpolator(interpolator, 8)), input_levels(config)


def maps_for(levels, height, width):
    return features({level: NARROW[level] for level in levels}, height, width, images=2)


SIZES = ((75, 133), (260, 129), (33, 520))


@every_neck
@pytest.mark.parametrize(
    ("interpolator", "size"),
    [
        pytest.param(
            *(kind, size),
            id=f"{kind}-{size[0]}x{size[1]}",
            marks=[] if size == SIZES[0] or kind in ("nearest", "afi", "fade") else pytest.mark.slow,
        )
        for kind in interpolator_kinds()
        for size in SIZES
    ],
)
def test_odd_sizes_round_up_at_every_level(settings, interpolator, size):
    neck, levels = build(settings, interpolator)
    with torch.no_grad():
        pyramid = neck(maps_for(levels, *size))
    assert list(pyramid) == list(neck.strides)
    for level, stride in neck.strides.items():
        assert pyramid[level].shape == (2, 8, *(-(-side // stride) for side in size))
        assert pyramid[level].isfinite().all()


def test_key_of_another_kind_is_named_once():
    with pytest.raises(UserError) as error:
        parse_neck({"kind": "fpn", "repeats": 3})
    assert str(error.value).startswith("neck.repeats:")


@every_neck
def test_pyramid_has_five_levels_from_the_first_that_it_reads(settings):
    neck, levels = build(settings)
    finest = int(levels[0][3:])
    assert levels == tuple(f"res{i}" for i in range(finest, 6))
    assert neck.strides == {f"p{i}": 2**i for i in range(finest, finest + 5)}
    assert pyramid_strides(parse_neck(settings)) == neck.strides
    assert finest == (2 if settings.get("top") == "pool" else 3)
    assert neck.channels == 8
    assert neck.size_divisor == (128 if settings["kind"] == "bifpn" else 32)


@every_neck
def test_images_of_one_batch_are_independent(settings):
    neck, levels = build(settings)
    maps = maps_for(levels, 128, 256)
    neck.eval()
    with torch.no_grad():
        together, alone = neck(maps), neck({level: value[1:] for level, value in maps.items()})
    for level, value in together.items():
        torch.testing.assert_close(value[1:], alone[level])


@every_neck
def test_every_parameter_gets_a_gradient(settings):
    neck, levels = build(settings, "afi")
    maps = {level: value.requires_grad_() for level, value in maps_for(levels, 256, 384).items()}
    sum((value * torch.randn_like(value)).sum() for value in neck(maps).values()).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None] == []
    # batch norm removes the effect of the bias before it, so that its gradient is zero but for rounding
    assert [name for name, p in neck.named_parameters() if not p.grad.any() and not name.endswith("bias")] == []
    assert all(value.grad.any() for value in maps.values())


@every_neck
def test_one_interpolator_serves_all_upsampling(settings):
    neck, levels = build(settings, "afi")
    shapes = []
    neck.interpolator.register_forward_pre_hook(lambda _, call: shapes.append([value.shape for value in call]))
    neck(maps_for(levels, 128, 256))
    expected = 4 * settings["repeats"] if settings["kind"] == "bifpn" else len(levels) - 1
    assert len(shapes) == neck.num_upsamplers == expected
    assert all((2 * coarse[-2], 2 * coarse[-1]) == tuple(fine[-2:]) for coarse, fine in shapes)
    stored = [name for name in neck.state_dict() if name.endswith("enlarge.weight")]
    assert stored == ["interpolator.enlarge.weight"]


@every_neck
def test_initial_convolutions_are_uniform_without_bias(settings):
    neck, _ = build(settings)
    for conv in (module for module in neck.modules() if isinstance(module, torch.nn.Conv2d)):
        bound = (3 / conv.weight[0].numel()) ** 0.5
        assert 0.8 * bound < conv.weight.abs().max() <= bound
        assert conv.bias is None or not conv.bias.any()


@every_neck
def test_bfloat16_autocast_keeps_the_pyramid_in_bfloat16(settings):
    neck, levels = build(settings, "afi")
    with torch.autocast("cpu", torch.bfloat16):
        pyramid = neck(maps_for(levels, 128, 256))
    assert {value.dtype for value in pyramid.values()} == {torch.bfloat16}


def test_interpolator_of_another_width_is_refused():
    with pytest.raises(UserError, match=r"neck\.channels=8,.*neck\.channels=16"):
        build_neck(FPNConfig(channels=8), NARROW, build_interpolator("nearest", 16))
