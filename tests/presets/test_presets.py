import re

import pytest

from afictl import UserError, list_presets, load_preset
from afictl.presets import Published, parse_preset


@pytest.mark.parametrize("name", list_presets())
def test_every_shipped_preset_loads_and_describes_itself(name):
    preset = load_preset(name)
    assert preset.name == name
    assert preset.description
    kind = preset.detector.kind.replace("cascade-mask-rcnn", "cascade-rcnn")
    assert (
        name.removesuffix("-tiny").removesuffix("-4step")
        == f"{kind}-{short_name(preset.backbone.name)}-{preset.neck.kind}"
    )


def short_name(backbone):
    """resnet50 -> r50, resnest101e -> s101, swin_tiny_... -> swin-t, tf_efficientnet_lite0 -> lite0."""
    if backbone.startswith("tf_efficientnet_"):
        return backbone.removeprefix("tf_efficientnet_")
    family, depth = re.match(r"(resnet|resnest|swin)_?(\d+|[a-z])", backbone).groups()
    return {"resnet": "r", "resnest": "s", "swin": "swin-"}[family] + depth


@pytest.mark.parametrize("name", list_presets())
def test_pixels_are_those_of_the_published_configuration(name):
    """ResNeSt and Swin Transformer: AFI-GAN's; EfficientNet-Lite: timm's; others: ImageNet's of torchvision."""
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    if "-s101-" in name:
        mean = (123.68, 116.779, 103.939)
    if "-s101-" in name or (name.startswith("cascade-rcnn-swin") and not name.endswith("-tiny")):
        std = (58.393, 57.12, 57.375)
    if "-lite0-" in name:
        mean = std = (127.5, 127.5, 127.5)
    config = load_preset(name).input
    assert [255 * value for value in config.mean] == pytest.approx(mean, abs=2e-5)
    assert [255 * value for value in config.std] == pytest.approx(std, abs=2e-5)


def test_a_preset_does_not_inherit_published_numbers(tmp_path):
    (tmp_path / "custom.yaml").write_text("extends: mask-rcnn-r50-fpn\n")
    assert load_preset("mask-rcnn-r50-fpn").published.afi.mask == 37.4
    assert load_preset(tmp_path / "custom.yaml").published == Published()


def test_a_misspelt_published_row_names_the_nearest():
    with pytest.raises(UserError, match=r"published\.nearst: .*'nearest'"):
        load_preset("mask-rcnn-r50-fpn", ["published.nearst.box=1"])


def test_overrides_are_read_as_yaml_and_reach_their_key():
    preset = load_preset(
        "faster-rcnn-r50-fpn", ["train.lr=1e-3", "input.min_sizes=[64, 96]", "backbone.pretrained=false"]
    )
    assert preset.train.lr == 1e-3
    assert preset.input.min_sizes == (64, 96)
    assert preset.backbone.pretrained is False


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["train.lrr=1"], r"--set: train\.lrr: .*'lr'"),  # misspelt
        (["trian.lr=1"], r"--set: trian: .*'train'"),  # misspelt section
        (["train.lr=fast"], r"--set: train\.lr: .*'fast'"),  # wrong kind of value
        (["train.lr"], r"--set train\.lr: .*KEY=VALUE"),  # no value
        (["train.lr=[1"], r"--set train\.lr=.*YAML"),  # broken value
        (["detector.kind=ssd"], r"detector\.kind.*faster-rcnn"),  # no kind
        (["detector.anchor_sizes=[1, 2]"], r"anchor_sizes.* five "),  # one short
        (["detector.anchor_sizes=[0, 2, 3, 4, 5]"], r"anchor_sizes\.0: .* 0"),
        (["detector.kind=fcos", "detector.size_ranges=[64, 32, 128, 256]"], r"size_ranges.* four "),
        (["detector.anchor_ratios=[1, -1]"], r"anchor_ratios\.1: .* -1"),
        (["detector.anchor_ratios=[]"], "anchor_ratios: .*more"),
        (["input.min_sizes=128"], r"min_sizes: .*\[128\]"),
        (["train=3"], "train: .*keys"),
        (["lr=0.1"], r"lr: .*train\.lr.*stage1\.lr.*stage2\.lr"),
        (["input.min_sizes=[]"], "min_sizes: .*more"),
        (["input.min_sizes=[64, 0]"], r"min_sizes\.1: .* 8"),
        (["input.min_sizes=[-96]"], r"min_sizes\.0: .* 8 .*-96\)$"),  # without a message about their number
        (["input.max_size=0"], "max_size: .* 8"),
        (["input.test_size=-1"], "test_size: .* 8"),
        (["input.std=[1, 0, 1]"], r"std\.1: .* 0"),
        (["input.mean=[0, 0, .inf]"], r"mean\.2: .*finite"),
        (["train.lr=.inf"], r"train\.lr: .*finite"),
        (["train.lr=yes"], r"train\.lr: .*number"),
        (["train.steps=on"], r"train\.steps: .*number"),
        (["train.lr='0.1'"], r"train\.lr: .*not text"),
        (["train.milestones=[1, true]"], r"train\.milestones\.1: .*number"),
        (["input.mean=[0, 0, no]"], r"input\.mean\.2: .*number"),
        (["detector.anchor_sizes=[yes, 2, 3, 4, 5]"], r"anchor_sizes\.0: .*number"),
        (["train.batch_size=4", "train.accumulate=3"], r"--set: train\.accumulate: .*batch_size=4 .*3"),
        (["stage1.accumulate=2"], r"stage1\.accumulate: unknown key"),
        (["train.steps=010"], r"--set train\.steps=010: .*decimal"),
        (["train.lr=1_0"], r"--set train\.lr=1_0: .*decimal"),
        (["train={lr: 1, lr: 2}"], r"--set train=.*: lr: .*twice"),
        (["backbone.options=" + "[" * 5000], r"--set backbone\.options=.*nested"),
        ([f"{'a.' * 5000}b=1"], "--set a.a.*sections"),
        (["input.mean=[123.675, 116.28, 103.53]"], r"input\.mean: .*0\.\.1.*255"),
        (["input.mean=[-0.1, 0.1, 0.1]"], r"input\.mean: .*0\.\.1"),
        (["input.std=[58.395, 57.12, 57.375]"], r"input\.std: .*255"),
        (["input.std=[0.0009, 0.0009, 0.0009]"], r"input\.std: .*255"),  # divided by 255 twice
        (["train.lr=1e27"], r"train\.lr: .* 100 "),
        (["train.momentum=1"], r"train\.momentum: .* 1 "),
        (["train.weight_decay=1e3"], r"train\.weight_decay: .* 10 "),
        (["train.clip_norm=1e30"], r"train\.clip_norm: "),
        (["stage1.adversarial_weight=1e9"], r"stage1\.adversarial_weight: "),
        (["train.batch_size=1000000"], r"train\.batch_size: "),
        (["train.steps=1e18"], r"train\.steps: "),
        (["train.milestones=[-1]"], r"train\.milestones\.0: "),
        (["input.min_sizes=[800, 1000000]"], r"input\.min_sizes\.1: "),
        (["input.test_size=1e6"], r"input\.test_size: "),
        (["loader.workers=100000"], r"loader\.workers: "),
        (["neck.channels=0"], r"neck\.channels: "),
        (["detector.max_detections=1e9"], r"detector\.max_detections: "),
        (["detector.anchor_ratios=[1e9]"], r"detector\.anchor_ratios\.0: "),
        (["published.afi.box=5000"], r"published\.afi\.box: "),
    ],
)
def test_an_invalid_override_names_the_key(overrides, facts):
    with pytest.raises(UserError, match=facts):
        load_preset("faster-rcnn-r50-fpn", overrides)


def test_numbers_of_published_recipes_are_accepted():
    preset = load_preset(
        "faster-rcnn-r50-fpn",
        [
            "input.mean=[0.40789, 0.45752, 0.48110]",
            f"input.std={[1 / 255] * 3}",
            "train.lr=1.28",
            "train.steps=1e5",
            "train.clip_norm=35",
            "train.eval_every=999999999",
            "input.max_size=100000",
            "train.weight_decay=0.05",
        ],
    )
    assert preset.input.std == (1 / 255,) * 3
    assert (preset.train.steps, preset.train.eval_every, preset.input.max_size) == (100_000, 999_999_999, 100_000)
    assert load_preset("faster-rcnn-r50-fpn", ["input.mean=[0, 0, 0]", "input.std=[1, 1, 1]"]).input.std == (1, 1, 1)


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        (
            "neck.repeats=3",
            ["neck.repeats", "bifpn", "fuse, top, top_down_from"],
        ),  # a key of another kind
        ("neck.norn=batch", ["neck.norn", "'norm'", "channels, interpolators, norm, fuse, top, top_down_from"]),
        ("detector.mask_width=8", ["detector.mask_width", "mask-rcnn", "fc_width"]),
        ("detector.kind=faster-rcn", ["detector.kind", "'faster-rcnn'"]),
        ("neck.kind=[1]", ["neck.kind"]),
        ("neck=bifpn", ["neck: ", "keys"]),
        ("repeats=3", ["neck.repeats"]),
    ],
)
def test_a_key_that_the_kind_does_not_have_names_the_keys_of_the_kind(override, facts):
    with pytest.raises(UserError) as error:
        load_preset("faster-rcnn-r50-fpn", [override])
    assert all(fact in str(error.value) for fact in facts), error.value
    assert "\n" not in str(error.value)


def test_another_kind_drops_inherited_keys_and_keeps_shared_ones():
    overrides = ["neck.channels=64", "neck.top=p5", "detector.max_detections=7", "detector.rpn_batch=3"]
    overrides += ["neck.kind=bifpn", "neck.repeats=2", "detector.kind=fcos"]
    with pytest.raises(UserError, match=r"neck\.top"):  # overridden beside the kind that lacks it
        load_preset("faster-rcnn-r50-fpn", overrides)
    preset = load_preset("retinanet-r50-fpn", ["neck.kind=bifpn", "neck.repeats=2", "detector.kind=fcos"])
    bifpn_keys = {"kind", "channels", "interpolators", "repeats", "fusion", "skips", "blocks"}
    assert preset.neck.model_dump().keys() == bifpn_keys
    assert (preset.neck.repeats, preset.detector.size_ranges) == (2, (64, 128, 256, 512))
    tiny = load_preset("fcos-r18-fpn-tiny", ["detector.kind=centermask", "neck.kind=pafpn"])
    assert (tiny.neck.top, tiny.neck.channels, tiny.detector.size_ranges[0], tiny.detector.mask_width) == (
        "p5",
        64,
        32,
        256,
    )


def test_a_file_of_another_kind_drops_inherited_keys_and_rejects_foreign_ones(tmp_path):
    (tmp_path / "base.yaml").write_text("neck: {kind: bifpn, repeats: 3, channels: 32}\n")
    (tmp_path / "custom.yaml").write_text("extends: base\nneck: {kind: fpn}\n")
    assert load_preset(tmp_path / "custom.yaml").neck.model_dump() == {
        "kind": "fpn",
        "channels": 32,
        "interpolators": "shared",
        "norm": "none",
        "fuse": "sum",
        "top": "pool",
        "top_down_from": "p5",
    }
    (tmp_path / "custom.yaml").write_text("extends: base\nneck: {kind: fpn, repeats: 3}\n")
    with pytest.raises(UserError, match=r"custom\.yaml: neck\.repeats"):
        load_preset(tmp_path / "custom.yaml")


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="'mask-rcnn-r50-fpn'"):
        load_preset("mask-rcnn-r50-fnp")


@pytest.mark.parametrize("neighbour", ["custom", "custom.yaml"])
def test_a_file_extends_a_shipped_preset_or_a_neighbour(neighbour, tmp_path):
    (tmp_path / "custom.yaml").write_text("name: Custom\nextends: faster-rcnn-r18-fpn-tiny\ntrain:\n  steps: 7\n")
    (tmp_path / "next.yaml").write_text(f"extends: {neighbour}\nneck:\n  channels: 32\n")
    preset = load_preset(tmp_path / "next.yaml")
    assert (preset.name, preset.train.steps, preset.neck.channels) == ("next", 7, 32)
    assert preset.backbone.name == "resnet18"
    assert preset.train.lr == load_preset("faster-rcnn-r18-fpn-tiny").train.lr


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("extends: custom\n", r"custom\.yaml: extends: .*itself"),
        ("train: [\n", r"custom\.yaml: .*YAML"),
        ("- 1\n", r"custom\.yaml: .*mapping"),
        ("extends: nothing\n", "'nothing'"),
        ("neck:\n  kind: pfn\n", r"custom\.yaml: neck\.kind"),
        ("train:\n  steps: 7\ntrain:\n  lr: 0.01\n", r"custom\.yaml: line 3: train: .*twice"),
        ("train:\n  steps: 0100\n", r"custom\.yaml: line 2: train\.steps: 0100 "),
        ("train:\n  steps: '100'\n", r"custom\.yaml: train\.steps: .*not text"),
        ("input:\n  mean: [123.675, 116.28, 103.53]\n", r"custom\.yaml: input\.mean: .*255"),
        ("0", r"custom\.yaml: .*mapping"),
    ],
)
def test_an_invalid_file_is_named(tmp_path, text, facts):
    (tmp_path / "custom.yaml").write_text(text)
    with pytest.raises(UserError, match=facts):
        load_preset(tmp_path / "custom.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_another_encoding(tmp_path, encoding):
    (tmp_path / "custom.yaml").write_bytes("extends: faster-rcnn-r50-fpn\ndescription: Größe\n".encode(encoding))
    assert load_preset(tmp_path / "custom.yaml").description == "Größe"


def test_another_backbone_does_not_inherit_options(tmp_path):
    swin = "cascade-rcnn-swin-t-bifpn-tiny"
    assert load_preset(swin).backbone.options["embed_dim"] == 32
    assert load_preset(swin, ["backbone.name=resnet18"]).backbone.options == {}
    assert load_preset(swin, ["backbone.options.embed_dim=48"]).backbone.options["depths"] == [2, 2, 2, 2]
    (tmp_path / "custom.yaml").write_text(f"extends: {swin}\nbackbone:\n  name: resnet18\n")
    assert load_preset(tmp_path / "custom.yaml").backbone.options == {}


def test_the_order_of_options_and_name_does_not_matter():
    overrides = ["backbone.options.drop_path_rate=0.1", "backbone.name=resnet18"]
    for order in (overrides, overrides[::-1]):
        assert load_preset("mask-rcnn-r50-fpn", order).backbone.options == {"drop_path_rate": 0.1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_preset(tmp_path / "absent.yaml")


def test_a_dumped_preset_is_read_back_equal():
    preset = load_preset("mask-rcnn-r18-fpn-tiny")
    assert parse_preset(preset.model_dump(mode="json")) == preset


@pytest.mark.parametrize("name", [name for name in list_presets() if not name.endswith("-tiny")])
def test_stage_2_learns_as_fast_an_image_as_stage_3(name):
    preset = load_preset(name)
    rates = [recipe.lr / recipe.batch_size for recipe in (preset.train, preset.stage2)]
    assert rates[0] == pytest.approx(rates[1])


LITE0 = "tf_efficientnet_lite0"
HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("base", "content", "overrides", "mean"),
    [
        ("faster-rcnn-r18-fpn-tiny", "", [f"backbone.name={LITE0}"], HALF),
        ("faster-rcnn-r18-fpn-tiny", "", [f"backbone={{name: {LITE0}}}"], HALF),
        ("faster-rcnn-r18-fpn-tiny", f"backbone: {{name: {LITE0}}}", [], HALF),
        ("faster-rcnn-lite0-fpn", "backbone: {name: resnet50}", [], IMAGENET),
        ("faster-rcnn-lite0-fpn", "", ["backbone.name=mobilenetv3_small_100"], IMAGENET),
        # A choice stays, wherever it is.
        ("faster-rcnn-r18-fpn-tiny", "", ["input.mean=[0.1,0.2,0.3]", f"backbone.name={LITE0}"], (0.1, 0.2, 0.3)),
        ("faster-rcnn-r18-fpn-tiny", "input: {mean: [0.1, 0.2, 0.3]}", [f"backbone.name={LITE0}"], (0.1, 0.2, 0.3)),
        ("cascade-rcnn-s101-fpn", "", ["backbone.name=resnet50"], (123.68 / 255, 116.779 / 255, 103.939 / 255)),
    ],
)
def test_another_backbone_brings_its_statistics_of_pixels(tmp_path, base, content, overrides, mean):
    (tmp_path / "custom.yaml").write_text(f"extends: {base}\n{content}\n")
    preset = load_preset(tmp_path / "custom.yaml", overrides)
    assert preset.input.mean == pytest.approx(mean, abs=1e-6)
    assert parse_preset(preset.model_dump(mode="json")) == preset


def test_a_preset_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_preset("mask-rcnn-r50-fpn").train.lr = 1.0


def test_a_preset_may_extend_a_model_of_torchvision(tmp_path):
    file = tmp_path / "custom.yaml"
    file.write_text("extends: torchvision:maskrcnn_resnet50_fpn_v2\ntrain:\n  steps: 7\n")
    preset = load_preset(file)
    assert (preset.name, preset.train.steps) == ("custom", 7)
    assert preset.detector.source == "maskrcnn_resnet50_fpn_v2"
    assert preset.detector.masks
    assert preset.backbone.norm == preset.neck.norm == "batch"
