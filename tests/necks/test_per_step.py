"""Necks with an interpolator for each enlargement, and top-down paths from p6."""

import copy

import pytest
import torch
from torch.nn import functional as F

from afictl import UserError
from afictl.interpolators import PerStepInterpolator, build_interpolator
from afictl.necks import build_neck, input_levels
from afictl.presets import parse_neck
from tests.helpers.backbone_maps import NARROW, features

NECKS = {
    "fpn": ({"kind": "fpn"}, 3),
    "fpn p3": ({"kind": "fpn", "top": "p5", "norm": "batch"}, 2),
    "fpn p6": ({"kind": "fpn", "top_down_from": "p6"}, 4),
    "fpn p3 p6": ({"kind": "fpn", "top": "res5", "top_down_from": "p6"}, 3),
    "pafpn p6": ({"kind": "pafpn", "top_down_from": "p6", "fuse": "avg"}, 4),
    "bifpn": ({"kind": "bifpn", "repeats": 3}, 12),
}
EVERY_NECK = pytest.mark.parametrize("neck", NECKS)
P6_NECKS = pytest.mark.parametrize("neck", [name for name in NECKS if "p6" in name])


def build(neck, interpolator, **settings):
    torch.manual_seed(0)
    config = parse_neck({"channels": 8, **NECKS[neck][0], **settings})
    return build_neck(config, NARROW, interpolator)


def maps_of(neck, height, width):
    levels = input_levels(parse_neck(NECKS[neck][0]))
    return features({level: NARROW[level] for level in levels}, height, width)


def carafe():
    torch.manual_seed(1)
    return build_interpolator("carafe", 8, compressed_channels=4)


@EVERY_NECK
def test_equal_steps_compute_what_one_shared_interpolator_computes(neck):
    interpolator, maps = carafe(), maps_of(neck, 160, 96)
    shared, per_step = build(neck, interpolator).eval(), build(neck, interpolator, interpolators="per-step").eval()
    with torch.no_grad():
        for level, value in shared(maps).items():
            assert torch.equal(per_step(maps)[level], value)
    assert shared.interpolator is interpolator
    assert interpolator not in list(per_step.interpolator.modules())  # its copies


@EVERY_NECK
def test_each_enlargement_has_parameters_of_its_own_and_gets_a_gradient(neck):
    _, steps = NECKS[neck]
    module = build(neck, carafe(), interpolators="per-step")
    assert isinstance(module.interpolator, PerStepInterpolator)
    assert len(module.interpolator.steps) == module.num_upsamplers == steps
    single = sum(value.numel() for value in carafe().parameters())
    assert sum(value.numel() for value in module.interpolator.parameters()) == steps * single
    sum((value * torch.randn_like(value)).sum() for value in module(maps_of(neck, 256, 384)).values()).backward()
    gradients = [step.encode.weight.grad for step in module.interpolator.steps]
    assert all(gradient.any() for gradient in gradients)
    assert len({gradient.abs().sum().item() for gradient in gradients}) == steps


@EVERY_NECK
def test_steps_are_numbered_from_the_finest_level(neck):
    module, calls = build(neck, build_interpolator("nearest", 8), interpolators="per-step"), []
    module.interpolator.register_forward_pre_hook(lambda _, inputs: calls.append((inputs[2], inputs[1].shape[-1])))
    module(maps_of(neck, 128, 256))
    steps = NECKS[neck][1]
    assert [step for step, _ in calls] == list(reversed(range(steps)))
    finest = 256 // min(module.strides.values())
    per_layer = 4 if neck == "bifpn" else steps
    assert [width for _, width in reversed(calls)] == [finest // 2 ** (i % per_layer) for i in range(steps)]


@pytest.mark.parametrize("number", range(4))
def test_a_changed_step_changes_its_level_and_those_below(number):
    module, maps = build("fpn p6", carafe(), interpolators="per-step"), maps_of("fpn p6", 128, 128)
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.interpolator.steps[number].encode.weight.normal_()
        before, after = module(maps), changed(maps)
    different = [level for level, value in before.items() if not torch.allclose(value, after[level])]
    assert different == ["p2", "p3", "p4", "p5"][: number + 1]


@P6_NECKS
@pytest.mark.parametrize("kind", ["nearest", "fade"])
@pytest.mark.parametrize("size", [(64, 64), (160, 96), (75, 133), (1, 260)])
def test_levels_of_a_path_from_p6_round_up(neck, kind, size):
    module = build(neck, build_interpolator(kind, 8), interpolators="per-step")
    with torch.no_grad():
        pyramid = module.eval()(maps_of(neck, *size))
    assert list(pyramid) == list(module.strides)
    assert len(pyramid) == 5
    assert module.size_divisor == 64
    for level, stride in module.strides.items():
        assert pyramid[level].shape == (1, 8, *(-(-side // stride) for side in size))


def test_p6_is_a_strided_convolution_of_res5_that_enters_p5():
    module, maps = build("fpn p6", build_interpolator("nearest", 8)), maps_of("fpn p6", 128, 192)
    assert {name for name in module.state_dict() if ".p6." in name} == {
        f"{convs}_convs.p6.{part}" for convs in ("lateral", "output") for part in ("weight", "bias")
    }
    lateral = module.lateral_convs["p6"]
    p6 = F.conv2d(maps["res5"], lateral.weight, lateral.bias, stride=2, padding=1)
    p5 = module.lateral_convs["p5"](maps["res5"]) + F.interpolate(p6, scale_factor=2.0)
    pyramid = module(maps)
    torch.testing.assert_close(pyramid["p6"], module.output_convs["p6"](p6))
    torch.testing.assert_close(pyramid["p5"], module.output_convs["p5"](p5))


def test_p7_above_a_path_from_p6_is_made_of_p6():
    module = build("fpn p3 p6", build_interpolator("nearest", 8))
    pyramid = module(maps_of("fpn p3 p6", 128, 128))
    assert list(pyramid) == ["p3", "p4", "p5", "p6", "p7"]
    torch.testing.assert_close(pyramid["p7"], module.top["p7"](F.relu(pyramid["p6"])))
    assert list(module.top) == ["p7"]


def test_a_bifpn_has_no_path_from_p6():
    with pytest.raises(UserError, match=r"neck\.top_down_from: not a key of bifpn but of fpn, pafpn"):
        parse_neck({"kind": "bifpn", "top_down_from": "p6"})


def test_an_interpolator_with_other_steps_is_refused():
    module = PerStepInterpolator([carafe() for _ in range(3)])
    assert build("fpn", module, interpolators="per-step").interpolator is module
    with pytest.raises(UserError, match=r"each of 3 steps, .*neck\.interpolators=per-step"):
        build("fpn", module)
    with pytest.raises(UserError, match="each of 3 steps, but this neck has 4 steps"):
        build("fpn p6", module, interpolators="per-step")
    with pytest.raises(UserError, match=r"'carafe'.*'nearest'"):
        PerStepInterpolator([carafe(), build_interpolator("nearest", 8)])
