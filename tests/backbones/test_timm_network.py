"""Networks of timm of many families as backbones."""

import copy

import pytest
import timm
import torch
from torch import nn

from afictl import UserError, build_detector, load_preset
from afictl.backbones.norms import FrozenBatchNorm
from tests.helpers.backbones import LEVELS, build
from tests.helpers.slow_cases import others_slow

SMALL_SWIN_V2 = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "drop_path_rate": 0.0}
SMALL_SAM2_HIERA = {"embed_dim": 16, "stages": [1, 1, 2, 1], "global_att_blocks": [3], "drop_path_rate": 0.0}
SMALL_TWINS = {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "drop_path_rate": 0.0}
FAMILIES = {
    "convnext_atto": {"depths": [1, 1, 2, 1]},
    "tf_efficientnet_lite0": {},
    "test_efficientnet": {},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "hrnet_w18_small": {},
    "hieradet_small": SMALL_SAM2_HIERA,
    "swinv2_tiny_window8_256": SMALL_SWIN_V2,
    "test_maxvit": {},
    "dla46_c": {},
    "darknet17": {},
    "ghostnet_050": {},
    "mambaout_femto": {"depths": [1, 1, 1, 1], "dims": [16, 32, 48, 64]},
    "twins_svt_small": SMALL_TWINS,
    "test_nfnet": {},
}
"""Name of a network -> options of a small one."""


def small(name, levels=LEVELS, **values):
    return build(name, levels, options=FAMILIES[name], **values)


def small_detector(name):
    preset = load_preset(
        "faster-rcnn-r18-fpn-tiny",
        (
            *(f"backbone.name={name}", f"backbone.options={FAMILIES[name]}", "interpolator.kind=nearest"),
            *("neck.channels=8", "detector.fc_width=8", "detector.roi_batch=16", "detector.proposals_train=50"),
        ),
    )
    return build_detector(preset, num_classes=2)


TRAINED = (
    "convnext_atto",
    "tf_efficientnet_lite0",
    "regnetx_002",
    "hieradet_small",
    "swinv2_tiny_window8_256",
    "test_nfnet",
)


@pytest.mark.parametrize("name", others_slow(FAMILIES, TRAINED))
def test_a_detector_with_the_network_trains_a_step(name):
    torch.manual_seed(0)
    detector = small_detector(name).train()
    assert list(detector.backbone.strides.values()) == [4, 8, 16, 32]
    target = {"boxes": torch.tensor([[8.0, 8, 40, 50]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    before = {key: value.detach().clone() for key, value in detector.backbone.named_parameters()}
    losses = detector([torch.rand(3, 64, 96)] * 2, [target] * 2)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert [key for key, value in detector.named_parameters() if value.requires_grad and value.grad is None] == []
    optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in detector.backbone.named_parameters())


@torch.no_grad()
def test_a_backbone_built_without_gradients_is_trained_where_the_maps_depend():
    unusual = {"drop_path_rate": 0.125}  # properties of a network with options of another test are cached
    backbone = build("regnetx_002", ("res3", "res4"), options=unusual)
    fixed = {name.split(".")[1] for name, value in backbone.named_parameters() if not value.requires_grad}
    assert fixed == {"s4"}


@pytest.mark.parametrize("name", ["regnetx_002", "swinv2_tiny_window8_256", "test_maxvit", "hieradet_small"])
def test_maps_of_any_image_size_are_those_of_the_padded_image(name):
    backbone = small(name, ("res3", "res5")).eval()
    height, width = 77, 130
    image = torch.randn(1, 3, height, width)
    padded = nn.functional.pad(image, (0, -width % backbone.divisor, 0, -height % backbone.divisor))
    with torch.no_grad():
        maps, expected = backbone(image), backbone(padded)
    assert list(maps) == ["res3", "res5"]
    for level, stride in (("res3", 8), ("res5", 32)):
        size = (-(-height // stride), -(-width // stride))
        assert maps[level].shape == (1, backbone.channels[level], *size)
        assert maps[level].is_contiguous()
        torch.testing.assert_close(maps[level], expected[level][..., : size[0], : size[1]], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "darknet17", "hieradet_small"])
def test_frozen_stages_are_those_of_the_maps(name):
    image, trainable = torch.randn(1, 3, 64, 64), []
    for count, trained_maps in ((0, 4), (1, 4), (2, 3), (5, 0)):
        backbone = small(name, frozen_stages=count)
        trained = [value.requires_grad for value in backbone(image).values()]
        assert trained == [False] * (4 - trained_maps) + [True] * trained_maps
        trainable.append(sum(value.requires_grad for value in backbone.parameters()))
    assert trainable[0] > trainable[1] > trainable[2] > trainable[3] == 0


def test_stem_of_an_efficientnet_ends_before_its_first_map_of_stride_4():
    backbone = small("tf_efficientnet_lite0", frozen_stages=1)
    fixed = {name.split(".")[1] for name, value in backbone.named_parameters() if not value.requires_grad}
    assert fixed == {"conv_stem", "blocks"}  # its norm has become buffers
    assert not any(value.requires_grad for value in backbone.net.blocks[0].parameters())
    assert all(value.requires_grad for value in backbone.net.blocks[1].parameters())


def test_stages_that_are_computed_together_are_not_frozen_one_by_one():
    with pytest.raises(UserError, match=r"backbone\.frozen_stages: .*hrnet_w18_small .* 0, 1 or 5"):
        small("hrnet_w18_small", frozen_stages=2)
    assert not any(value.requires_grad for value in small("hrnet_w18_small", frozen_stages=5).parameters())
    stem = small("hrnet_w18_small", frozen_stages=1)
    fixed = {name.split(".")[1] for name, value in stem.named_parameters() if not value.requires_grad}
    assert fixed == {"conv1", "conv2"}


def test_parameters_without_influence_on_the_levels_are_not_trained():
    backbone = small("hrnet_w18_small", ("res3", "res4", "res5"))
    sum(value.mean() for value in backbone(torch.randn(2, 3, 64, 64)).values()).backward()
    assert [name for name, value in backbone.named_parameters() if value.requires_grad == (value.grad is None)] == []
    assert not any(value.requires_grad for value in backbone.net.incre_modules[0].parameters())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "darknet17", "dla46_c"])
def test_frozen_batch_norm_keeps_the_activation_and_the_statistics(name):
    plain, frozen = small(name), small(name, norm="frozen-batch")
    frozen.load_state_dict(plain.state_dict(), strict=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert any(isinstance(module, FrozenBatchNorm) for module in frozen.modules())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = plain.eval()(image)
    for level, value in frozen.train()(image).items():
        torch.testing.assert_close(value, expected[level], rtol=1e-4, atol=1e-5)


CHECKPOINTED = ("convnext_atto", "tf_efficientnet_lite0", "regnetx_002", "swinv2_tiny_window8_256", "test_maxvit")


@pytest.mark.parametrize("name", others_slow(CHECKPOINTED, CHECKPOINTED[:1]))
def test_checkpointing_gives_the_same_numbers_with_less_memory(name):
    options = {**FAMILIES[name], "drop_path_rate": 0.3}
    plain = build(name, options=options).train()
    checkpointed = build(name, options=options, checkpointing=True).train()
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed = copy.deepcopy(checkpointed)
    image, results = torch.randn(2, 3, 64, 64), []
    for backbone in (plain, checkpointed):
        saved: dict[int, int] = {}

        def save(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            loss = sum(value.square().mean() for value in backbone(image).values())
        loss.backward()
        gradients = {key: value.grad for key, value in backbone.named_parameters()}
        results.append((gradients, dict(backbone.named_buffers()), sum(saved.values())))
    (expected, buffers, memory), (gradients, own_buffers, own_memory) = results
    assert own_memory < 0.7 * memory
    for key, value in expected.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-4, atol=1e-5, msg=key)
    for key, value in buffers.items():
        torch.testing.assert_close(own_buffers[key], value, rtol=0, atol=0, msg=key)


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"name": "vit_tiny_patch16_224"}, r"backbone\.name: vit_tiny_patch16_224 .*strides 16 only.* 4, 8, 16 and 32"),
        ({"name": "levit_128s"}, r"backbone\.name: levit_128s .*strides 16, 32, 64 only"),
        ({"name": "test_coatnet"}, r"backbone\.name: test_coatnet .*one size.*160"),
        ({"name": "legacy_xception"}, r"backbone\.name: legacy_xception .*128 x 15 x 23 .*128 x 16 x 24"),
        ({"name": "ConvNeXt_Atto"}, r"backbone\.name: .*'ConvNeXt_Atto'.*'convnext_atto'"),
        ({"name": "convnext_ato"}, r"backbone\.name: .*'convnext_ato'.*'convnext_atto'"),
        ({"name": "convnext_atto.nonsense"}, r"backbone\.name: .*nonsense"),
        ({"name": "convnext_atto", "stride_in_1x1": True}, r"backbone\.stride_in_1x1: convnext_atto"),
        ({"name": "dla46_c", "checkpointing": True}, r"backbone\.checkpointing: .*dla46_c"),
        ({"name": "convnext_atto", "options": {"drop_path": 0.1}}, r"backbone\.options: .*'drop_path_rate'"),
        ({"name": "convnext_atto", "options": {"dims": [0, 8, 8, 8]}}, r"backbone\.options: .*dims"),
        ({"name": "convnext_atto", "options": {"depths": [1, 1]}}, r"backbone\.options: .*depths"),
        ({"name": "convnext_atto", "options": {"depths": [10**9, 1, 1, 1]}}, r"backbone\.options: .*depths.*65,536"),
        pytest.param(
            *({"name": "convnext_atto", "options": {"depths": [60000, 1, 1, 1]}}, r"backbone\.options: .*20,000"),
            marks=pytest.mark.slow,
        ),
        ({"name": "convnext_atto", "options": {"drop_path_rate": 2}}, r"backbone\.options\.drop_path_rate"),
    ],
)
def test_unsuitable_networks_and_settings_are_reported_in_one_line(values, fact):
    with pytest.raises(UserError, match=fact) as error:
        build(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["convnext_atto", "tf_efficientnet_lite0", "hieradet_small", "mambaout_femto"])
def test_weights_of_timms_classifier_are_converted(name):
    donor = timm.create_model(name, **FAMILIES[name]).eval()
    backbone = small(name).eval()
    backbone.net.load_state_dict(backbone.convert_classifier(donor.state_dict()), strict=True)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = donor.forward_intermediates(image, intermediates_only=True)[-1]
        torch.testing.assert_close(backbone(image)["res5"], expected, rtol=1e-4, atol=1e-5)


def original_convnext_name(name):
    """timm's name of a tensor of a ConvNeXt -> that in the files of its authors."""
    stage, _, end = name.removeprefix("stages.").partition(".downsample")
    name = f"downsample_layers.{stage}{end}" if end else name.replace("stem", "downsample_layers.0")
    for timms, original in ((".conv_dw", ".dwconv"), (".mlp.fc", ".pwconv"), (".blocks", ""), ("head.fc", "head")):
        name = name.replace(timms, original)
    return name.replace("head.norm", "norm")


def test_weights_of_the_original_project_are_converted():
    backbone = small("convnext_atto")
    state = timm.create_model("convnext_atto", **FAMILIES["convnext_atto"]).state_dict()
    original = {original_convnext_name(name): value for name, value in state.items()}
    assert {"downsample_layers.0.0.weight", "downsample_layers.1.0.bias", "stages.0.0.pwconv1.bias"} < original.keys()
    for name in [name for name in original if name.endswith(("pwconv1.weight", "pwconv2.weight"))]:
        original[name] = original[name].flatten(1)  # linear layers there, convolutions in timm's smallest ConvNeXts
    backbone.net.load_state_dict(backbone.convert_classifier(original), strict=True)
    expected = backbone.convert_classifier(state)
    assert all(torch.equal(value, expected[name]) for name, value in backbone.net.state_dict().items())


def test_building_draws_no_random_number_beyond_those_of_the_weights():
    torch.manual_seed(0)
    backbone = small("convnext_atto")
    state = torch.get_rng_state()
    torch.manual_seed(0)
    donor = timm.create_model("convnext_atto", features_only=True, **FAMILIES["convnext_atto"])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, backbone.net.state_dict()[name]) for name, value in donor.state_dict().items())
