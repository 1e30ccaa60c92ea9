import pytest
import timm
import torch
from torch.nn import functional as F

from afictl.weights.layouts.detectron2_names import BOTTOM_UP, swin_key
from tests.helpers.backbones import SWIN, build, build_swin
from tests.helpers.golden_files import apply_rule_h, assert_golden, golden_image, read_keys

LEVELS = ("res3", "res4", "res5")


def reference_key(name):
    return BOTTOM_UP + swin_key(name.removeprefix("net."))


def test_narrow_swin_equals_the_reference():
    backbone = build_swin(LEVELS).eval()
    apply_rule_h(backbone, reference_key, "afi_cascade_SwinTinyFixture_BiFPN")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.393, 57.12, 57.375]))
    image = F.pad((golden_image(120, 128) - mean) / std, (0, 0, 0, 8))
    with torch.no_grad():
        maps = backbone(image[None])
    for level, value in maps.items():
        stage = level.replace("res", "stage")
        assert_golden("cascade_swin_tiny_bifpn", f"H.cascade_swin_tiny_bifpn_afi.bottom_up.{stage}", value)


@pytest.mark.parametrize(
    ("name", "options", "keys"),
    [
        (SWIN, "narrow", "afi_cascade_SwinTinyFixture_BiFPN"),
        ("swin_large_patch4_window12_384.ms_in22k", {}, "afi_cascade_SwinL_BiFPN"),
    ],
)
def test_swin_has_the_tensors_of_the_reference(name, options, keys):
    with torch.device("meta"):
        backbone = build_swin(LEVELS) if options == "narrow" else build(name, LEVELS)
    shapes = {reference_key(name): value.shape for name, value in backbone.state_dict().items()}
    keys = {name: key for name, key in read_keys(keys).items() if name.startswith(BOTTOM_UP)}
    assert shapes == {name: key.shape for name, key in keys.items() if key.is_float}


def test_padding_is_zeros_on_the_right_and_bottom():
    backbone = build_swin().eval()
    image = torch.randn(1, 3, 97, 131)
    with torch.no_grad():
        for odd, whole in zip(backbone(image).values(), backbone(F.pad(image, (0, 1, 0, 3))).values(), strict=True):
            torch.testing.assert_close(odd, whole, rtol=0, atol=0)


def test_every_stage_shifts_its_windows_also_with_weights_of_a_single_window():
    with torch.device("meta"):
        backbone = build("swin_large_patch4_window12_384.ms_in22k")
    for stage in range(4):
        blocks = backbone.net[f"layers_{stage}"].blocks
        assert [block.shift_size for block in blocks[:2]] == [(0, 0), (6, 6)]
        assert {block.window_size for block in blocks} == {(12, 12)}


def test_norms_of_frozen_levels_are_trained():
    backbone = build_swin(frozen_stages=2)
    fixed = {name.split(".")[1] for name, value in backbone.named_parameters() if not value.requires_grad}
    assert fixed == {"patch_embed", "layers_0"}
    assert all(value.requires_grad for value in backbone.norms.parameters())


def test_maps_are_contiguous():
    maps = build_swin()(torch.randn(1, 3, 64, 96))
    assert all(value.is_contiguous() for value in maps.values())


def microsoft(tensors):
    """The same weights in the form of Microsoft's files: merging ends a stage; with tables derived from the window."""
    renamed = {}
    for name, value in tensors.items():
        parts = name.replace("head.fc", "head").split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts)] = value
        if parts[-1] == "qkv":
            renamed[".".join([*parts[:-1], "relative_position_index"])] = torch.zeros(49, 49)
    return renamed | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


@pytest.mark.parametrize("rename", [dict, microsoft])
def test_classifier_weights_are_converted(rename):
    donor = timm.create_model(SWIN, embed_dim=32, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]).eval()
    backbone = build_swin(options={"window_size": 7}).eval()
    backbone.net.load_state_dict(backbone.convert_classifier(rename(donor.state_dict())), strict=True)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = donor.forward_intermediates(image, intermediates_only=True)
        for i in range(3):  # the last stage of the classifier does not shift its windows
            actual = backbone.net(image)[i].permute(0, 3, 1, 2)
            torch.testing.assert_close(actual, expected[i], rtol=1e-4, atol=1e-5)
