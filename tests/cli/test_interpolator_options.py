"""``--interpolator`` with ``--set interpolator.*``: options belong to one kind, and none is dropped silently."""

import json
import os
from pathlib import Path

import pytest

from afictl import AFInterpolator, UserError, build_detector
from afictl.cli.interpolator_options import load_preset_for, require_compared_options
from afictl.comparison import parse_methods
from tests.helpers.tiny_runs import set_flags

TINY = "faster-rcnn-r18-fpn-tiny"
BLOCKS = "interpolator.options={blocks: 1, growth: 4}"


@pytest.fixture
def custom(tmp_path):
    """A preset file with options of AFI."""
    file = tmp_path / "custom.yaml"
    file.write_text(f"extends: {TINY}\ninterpolator: {{options: {{blocks: 2}}}}\n")
    return str(file)


@pytest.mark.parametrize(
    ("overrides", "interpolator", "expected"),
    [
        ([], None, ("afi", {"blocks": 2})),
        ([], "afi", ("afi", {"blocks": 2})),
        ([], "kind:afi", ("afi", {"blocks": 2})),
        ([], "dysample", ("dysample", {})),  # options of the preset's kind are not inherited
        ([BLOCKS], None, ("afi", {"blocks": 1, "growth": 4})),
        (["interpolator.options.groups=8"], "dysample", ("dysample", {"groups": 8})),
        (["interpolator={options: {groups: 8}}"], "dysample", ("dysample", {"groups": 8})),
        (["interpolator.options.groups=8", "interpolator.kind=dysample"], None, ("dysample", {"groups": 8})),
        (["interpolator={kind: dysample, options: {groups: 8}}"], None, ("dysample", {"groups": 8})),
    ],
)
def test_options_belong_to_the_chosen_kind(custom, overrides, interpolator, expected):
    config = load_preset_for(custom, overrides, interpolator).interpolator
    assert (config.kind, config.options) == expected


@pytest.mark.parametrize(
    ("overrides", "interpolator", "facts"),
    [
        ([BLOCKS], "nearest", "'nearest' has no option 'blocks'"),
        ([BLOCKS], "dysample", "'dysample' has no option 'blocks'.*'groups'|groups"),
        (["interpolator.options.blokcs=1"], None, "'afi' has no option 'blokcs'.*'blocks'"),
        (["interpolator.kind=carafe", BLOCKS], None, "'carafe' has no option 'blocks'"),
        (["interpolator.kind=carafe"], "afi", r"--set interpolator\.kind: .*--interpolator afi"),
        ([BLOCKS], "FILE", r"--set interpolator\.options\.blocks: .*--interpolator .*file\.safetensors"),
        ([BLOCKS], "nearst", "--interpolator nearst: .*'nearest'"),
    ],
)
def test_an_option_without_effect_is_refused(custom, tmp_path, overrides, interpolator, facts):
    AFInterpolator(64, blocks=1, growth=4).save(tmp_path / "file.safetensors")
    source = str(tmp_path / "file.safetensors") if interpolator == "FILE" else interpolator
    with pytest.raises(UserError, match=facts):
        load_preset_for(custom, overrides, source)


@pytest.mark.parametrize(
    ("overrides", "methods", "facts"),
    [
        ([BLOCKS], "nearest,afi", None),
        ([BLOCKS], "nearest,mine=kind:afi", None),
        (["interpolator.kind=dysample", "interpolator.options.groups=8"], "afi,dysample", None),
        ([], "nearest", None),
        ([BLOCKS], "nearest,dysample", r"--set interpolator\.options\.blocks: .*'afi'.*interpolator\.kind=KIND"),
        (["interpolator.kind=carafe"], "nearest,afi", r"--set interpolator\.kind: .*'carafe'"),
        (["interpolator.options.groups=8"], "nearest,afi", "'afi' has no option 'groups'"),
    ],
)
def test_options_of_a_comparison_belong_to_a_compared_kind(overrides, methods, facts):
    preset = load_preset_for(TINY, overrides, None) if facts is None else None
    if preset is not None:
        require_compared_options(preset, overrides, parse_methods(methods))
        return
    with pytest.raises(UserError, match=facts):
        require_compared_options(load_preset_for(TINY, overrides, None), overrides, parse_methods(methods))


def test_the_options_reach_the_module(afictl):
    words = ("--interpolator", "dysample", "--set", "interpolator.options.groups=8", "--resolved")
    _, text, _ = afictl("model", "show", TINY, *words)
    assert "groups: 8" in text
    words = ("--interpolators", "nearest,dysample", "--set", "interpolator.options.groups=8")
    code, _, errors = afictl("compare", "--only-cost", "--preset", TINY, *words)
    assert (code, errors.count("\n")) == (2, 1)


def test_a_kind_beside_a_folder_of_its_name_ends_in_one_line(afictl, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("afi").mkdir()
    words = ("--preset", TINY, "--data", shapes)
    for command in (("finetune", *words, "--interpolator", "afi"), ("compare", *words, "--interpolators", "afi=afi")):
        code, _, errors = afictl(*command)
        assert (code, errors.count("\n")) == (2, 1)
        assert "kind:afi" in errors
        assert "./afi" in errors
    assert os.listdir() == ["afi"]
    assert afictl("model", "show", TINY, "--interpolator", "afi", "--resolved")[0] == 0  # takes no path


def test_the_default_methods_are_kinds_whatever_folders_there_are(afictl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("afi").mkdir()
    settings = ("backbone.name=test_resnet", "neck.channels=16", "input.test_size=64", "input.max_size=64")
    words = set_flags(settings)
    code, _, errors = afictl("compare", "--only-cost", "--preset", TINY, *words, "--output", "out")
    assert (code, errors) == (0, "")
    methods = json.loads(Path("out/comparison.json").read_text())["methods"]
    assert [method["name"] for method in methods] == ["nearest", "bilinear", "bicubic", "afi"]


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("backbone: {options: {layers: [true, 2, 2, 2]}}", r"backbone\.options\.layers"),
        ("backbone: {options: {layer: 2}}", r"backbone\.options: .*'layer'; did you mean 'layers'"),
        ("backbone: {name: resnet81}", r"backbone\.name: .*'resnet81'"),
        ("interpolator: {options: {blocks: 0}}", "blocks must be a positive whole number"),
        ("interpolator: {kind: afii}", "'afii'; did you mean 'afi'"),
    ],
)
def test_a_preset_of_which_nothing_can_be_built_is_refused_with_its_file(tmp_path, content, facts):
    file = tmp_path / "faulty.yaml"
    file.write_text(f"extends: {TINY}\n{content}\n")
    for overrides in ([], ["train.steps=3"], ["neck.channels=32"]):
        with pytest.raises(UserError, match=rf"faulty\.yaml: .*{facts}"):
            load_preset_for(str(file), overrides, None)
    with pytest.raises(UserError, match=rf"faulty\.yaml: .*{facts}"):
        build_detector(file)


def test_a_setting_of_which_nothing_can_be_built_is_named(custom):
    with pytest.raises(UserError, match=r"^--set: backbone\.options: .*'layer'"):
        load_preset_for(custom, ["backbone.options.layer=2"], None)
    with pytest.raises(UserError, match=r"^--set: backbone\.options: .*'layer'"):
        load_preset_for(TINY, ["backbone.options.layer=2"], None)
