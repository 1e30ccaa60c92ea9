"""A known name that is also an existing path is an error that shows how to say either."""

from pathlib import Path

import pytest

from afictl import AFInterpolator, UserError, load_preset
from afictl.cli.compare import _parse_runs
from afictl.comparison import parse_methods
from afictl.interpolators import kind_of_source
from afictl.training import InitialWeights
from afictl.training.initial_weights import resolve_interpolator
from afictl.visualization.named_models import named_interpolators
from afictl.weights.classes import read_classes

TINY = "faster-rcnn-r18-fpn-tiny"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with the run ``afi`` of an interpolator of two blocks."""
    (tmp_path / "afi").mkdir()
    AFInterpolator(64, blocks=2, growth=4).save(tmp_path / "afi" / "interpolator.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "read",
    [
        kind_of_source,
        lambda name: InitialWeights(name).is_trained_interpolator,
        lambda name: InitialWeights(name).as_config(),
        lambda name: InitialWeights(name).check_paths(resumes=False),
        lambda name: resolve_interpolator(load_preset(TINY), name, seed=0),
        lambda name: named_interpolators(None, [name], []),
        parse_methods,
        lambda name: parse_methods(f"trained={name}"),
    ],
)
def test_a_kind_that_is_also_a_folder_is_refused_wherever_it_is_read(here, read):
    with pytest.raises(UserError, match=r"afi: .*folder.* write (\w+=)?kind:afi .* (\w+=)?\./afi "):
        read("afi")


@pytest.mark.parametrize(("source", "blocks"), [("kind:afi", 3), ("./afi", 2), ("afi/", 2)])
def test_both_can_be_said(here, source, blocks):
    preset, module = resolve_interpolator(load_preset(TINY), source, seed=0)
    assert len(module.group) == blocks
    assert preset.interpolator.kind == "afi"
    recorded = InitialWeights(source).as_config()["interpolator"]
    assert recorded == ("afi" if source == "kind:afi" else str(here / "afi"))
    (method,) = parse_methods(f"trained={source}")
    assert method.source == source


def test_other_kinds_and_method_names_are_not_affected(here):
    assert [method.name for method in parse_methods("nearest,kind:afi")] == ["nearest", "afi"]
    assert [(method.name, method.source) for method in parse_methods("afi=./afi")] == [("afi", "./afi")]
    assert kind_of_source("nearest") == "nearest"
    assert kind_of_source("kind:nearst") is None


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_a_preset_that_is_also_a_path(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(Path(TINY))
    with pytest.raises(UserError, match=rf"preset {TINY}: .*preset:{TINY} .*\./{TINY} "):
        load_preset(TINY)
    assert load_preset(f"preset:{TINY}").name == TINY
    (tmp_path / "custom.yaml").write_text(f"extends: {TINY}\n")  # resolved beside the file, where there is none
    assert load_preset("custom.yaml").backbone.name == "resnet18"
    assert load_preset("preset:torchvision:fcos_resnet50_fpn").name == "torchvision:fcos_resnet50_fpn"
    with pytest.raises(UserError, match="did you mean"):
        load_preset(f"preset:{TINY[:-1]}")


def test_a_preset_that_extends_a_shipped_name_beside_a_file_of_that_name(tmp_path):
    (tmp_path / f"{TINY}.yaml").write_text("train: {steps: 7, batch_size: 2, lr: 0.1}\n")
    custom = tmp_path / "custom.yaml"
    for base, steps in ((f"preset:{TINY}", 800), (f"{TINY}.yaml", 7)):
        custom.write_text(f"extends: {base}\n")
        assert load_preset(custom).train.steps == steps
    custom.write_text(f"extends: {TINY}\n")
    with pytest.raises(UserError, match=rf"custom\.yaml: extends: {TINY} .*preset:{TINY} .*{TINY}\.yaml "):
        load_preset(custom)


def test_a_class_that_is_also_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cat").write_text('["dog"]')
    Path("bird").mkdir()  # a folder is no list of classes
    with pytest.raises(UserError, match=r"--classes cat: .*names:cat .*\./cat "):
        read_classes("cat")
    assert [read_classes(text)[0] for text in ("names:cat", "./cat", "bird")] == [["cat"], ["dog"], ["bird"]]


def test_a_run_that_is_also_a_name_and_a_run_or_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("lr=0.1", "0.1", "a,b", "a"):
        Path(folder).mkdir()
    with pytest.raises(UserError, match=r"--runs lr=0\.1: .*\./lr=0\.1 .*lr=\./0\.1 "):
        _parse_runs(["lr=0.1"], [])
    assert _parse_runs(["./lr=0.1"], []) == ([Path("lr=0.1")], {})
    assert _parse_runs(["lr=./0.1"], []) == ([Path("0.1")], {Path("0.1"): "lr"})
    assert _parse_runs(["a,b"], []) == ([Path("a,b")], {})
    Path("b").mkdir()
    with pytest.raises(UserError, match="--runs a,b: "):
        _parse_runs(["a,b"], [])
