import pytest
import torch

from afictl import UserError
from tests.helpers.backbones import NARROW, SWIN, build, build_swin

SMALL = [("resnet18", {}), ("resnest14d", {}), (SWIN, NARROW)]


@pytest.mark.parametrize(("name", "options"), SMALL)
@pytest.mark.parametrize("levels", [("res2", "res3", "res4", "res5"), ("res3", "res4", "res5"), ("res2", "res3")])
def test_only_requested_levels_are_returned_and_every_weight_contributes(name, options, levels):
    backbone = build(name, levels, options=options)
    maps = backbone.train()(torch.randn(2, 3, 97, 131))
    assert list(maps) == list(backbone.channels) == list(backbone.strides) == list(levels)
    for level, value in maps.items():
        stride = backbone.strides[level]
        assert value.shape == (2, backbone.channels[level], -(-97 // stride), -(-131 // stride))
    sum(value.square().mean() for value in maps.values()).backward()
    assert [name for name, value in backbone.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet101", (256, 512, 1024, 2048)),
        ("resnest101e.in1k", (256, 512, 1024, 2048)),
        ("swin_tiny_patch4_window7_224.ms_in1k", (96, 192, 384, 768)),
        ("swin_large_patch4_window12_384.ms_in22k", (192, 384, 768, 1536)),
    ],
)
def test_published_backbones_have_their_channels_and_strides(name, widths):
    with torch.device("meta"):
        backbone = build(name)
    assert tuple(backbone.channels.values()) == widths
    assert tuple(backbone.strides.values()) == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "options", "stem"),
    [("resnet18", {"zero_init_last": False}, "conv1"), (SWIN, NARROW, "patch_embed")],
    ids=["resnet", "swin"],
)
def test_frozen_stages_neither_learn_nor_drop_paths(name, options, stem):
    settings = {"options": {**options, "drop_path_rate": 0.9}, "norm": "frozen-batch"}
    image = torch.randn(4, 3, 64, 64)
    frozen = build(name, frozen_stages=5, **settings).train()
    assert not any(value.requires_grad for value in frozen.net.parameters())
    assert torch.equal(frozen(image)["res5"], frozen(image)["res5"])
    free = build(name, frozen_stages=1, **settings).train()
    assert not any(value.requires_grad for value in free.net[stem].parameters())
    assert not torch.equal(free(image)["res5"], free(image)["res5"])


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"name": "resnet5"}, "backbone.name: .*'resnet50'"),
        ({"name": "resnet50.nonsense"}, "backbone.name: .*nonsense"),
        ({"name": "swin_tiny_patch4_window7"}, "backbone.name: .*'swin_tiny_patch4_window7_224'"),
        ({"name": "zzz"}, r"backbone.name: .*aimv2.* \d+ more$"),
        ({"name": "resnet18", "stride_in_1x1": True}, "stride_in_1x1: resnet18 "),
        ({"name": "resnest26d", "stride_in_1x1": True}, "stride_in_1x1: resnest26d "),
        ({"name": SWIN, "stride_in_1x1": True}, "stride_in_1x1: swin_tiny"),
        ({"name": "resnet18", "options": {"drop_path": 0.1}}, "backbone.options: .*'drop_path_rate'"),
        ({"name": SWIN, "options": {"pretrained": True}}, "backbone.options: .*'pretrained'"),
        ({"name": SWIN, "options": {"img_size": 384}}, "backbone.options: .*'img_size'"),
        ({"name": SWIN, "options": {"embed_dim": "wide"}}, r"backbone\.options\.embed_dim: .*not text.*'wide'"),
        ({"name": SWIN, "options": {"depths": [2, 2]}}, r"backbone\.options\.depths\.2: "),
        ({"name": SWIN, "options": {"drop_path_rate": -1}}, r"backbone\.options\.drop_path_rate: .* 0 "),
        ({"name": "resnet18", "options": {"drop_path_rate": 1}}, r"backbone\.options\.drop_path_rate: .* 1 "),
        ({"name": "resnet18", "options": {"channels": [0, 16, 24, 32]}}, r"options\.channels\.0: .*\(got 0\)"),
        ({"name": "resnet18", "options": {"channels": [8, 16]}}, r"backbone\.options\.channels\.2: "),
        ({"name": "resnet50", "options": {"base_width": 10**9}}, r"backbone\.options\.base_width: .* 1024 "),
        ({"name": "resnet50", "options": {"cardinality": True}}, r"backbone\.options\.cardinality: .*number"),
        ({"name": "resnet18", "options": {"layers": [2, 2, 2, -2]}}, r"backbone\.options\.layers\.3: .*\(got -2\)"),
        ({"name": "resnet18", "options": {"norm_layer": "layernorm"}}, "backbone.options: .*layernorm.* resnet18 "),
        ({"name": "resnest26d", "options": {"block_args": {"radix": 0}}}, r"\.block_args\.radix: .*\(got 0\)"),
        ({"name": SWIN, "options": {"window_size": 0}}, r"backbone\.options\.window_size"),
        ({"name": SWIN, "options": {"mlp_ratio": -4}}, r"backbone\.options\.mlp_ratio: .* 0 "),
        ({"name": SWIN, "options": {"patch_size": 2}}, "backbone.options: .*4, 8, 16 and 32"),
    ],
)
def test_invalid_settings_are_reported_in_one_line(values, fact):
    with pytest.raises(UserError, match=fact) as error:
        build(**values)
    assert "\n" not in str(error.value)


def test_swin_options_reach_timm():
    backbone = build_swin(options={"drop_path_rate": 0.2})
    assert backbone.net.layers_3.blocks[1].drop_path2.drop_prob == pytest.approx(0.2)
    assert backbone.net.layers_0.blocks[0].attn.window_size == (4, 4)
