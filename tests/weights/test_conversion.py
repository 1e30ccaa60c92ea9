"""The command ``afictl convert``."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from afictl import AFInterpolator, PatchDiscriminator, UserError, build_detector, load_preset, load_weights
from afictl.cli.main import app
from afictl.tensor_files import read_tensors
from afictl.weights import backbone_file, load_detector
from afictl.weights.conversion import convert
from afictl.weights.layouts.detectron2_names import discriminator_key
from tests.helpers.foreign_checkpoints import to_detectron2
from tests.helpers.golden_files import reference_tensors

SMALL = ["neck.channels=16", "detector.fc_width=16", "interpolator.options={blocks: 1, growth: 4}"]


def call(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    return to_detectron2(build_detector(load_preset("faster-rcnn-r18-fpn-tiny", SMALL), num_classes=2))


@pytest.fixture
def file(tensors, tmp_path):
    torch.save({"model": tensors}, tmp_path / "model_final.pth")
    return tmp_path / "model_final.pth"


def test_detector_is_converted_and_reported(file, tmp_path):
    out = tmp_path / "new" / "detector.safetensors"
    result = call(file, out, "--classes", "cat,dog", "--set", "input.test_size=600")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "recognised: a detector of AFI-GAN"
    assert lines[1] == "preset: faster-rcnn-r18-fpn, interpolator afi, 2 classes (cat, dog)"
    matched = len(load_detector(file).report.matched)
    assert lines[2] == f"tensors: {matched} matched, 0 missing, 0 unexpected, 0 mismatched"
    assert lines[-1] == f"written: {out}"
    converted, direct = load_detector(out), load_detector(file)
    assert converted.classes == ("cat", "dog")
    assert converted.preset.input.test_size == 600
    state = converted.detector.state_dict()
    assert all(torch.equal(state[name], value) for name, value in direct.detector.state_dict().items())
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_classes_of_an_annotation_file_keep_their_ids(file, tmp_path):
    categories = [{"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}]
    (tmp_path / "instances.json").write_text(json.dumps({"categories": categories}))
    call(file, tmp_path / "out.safetensors", "--classes", tmp_path / "instances.json")
    assert load_detector(tmp_path / "out.safetensors").metadata["category_ids"] == [3, 17]
    (tmp_path / "names.json").write_text('["a", "b"]')
    call(file, tmp_path / "out.safetensors", "--classes", tmp_path / "names.json")
    assert load_detector(tmp_path / "out.safetensors").classes == ("a", "b")


def test_partial_conversion_needs_the_flag(tensors, tmp_path):
    rest = {name: value for name, value in tensors.items() if not name.startswith("roi_heads.")}
    torch.save({**rest, "sem_seg_head.predictor.bias": torch.zeros(3)}, tmp_path / "part.pth")
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match=r"1 unexpected \(sem_seg_head\.predictor\.bias\).*--partial"):
        call(tmp_path / "part.pth", out)
    assert not out.exists()
    result = call(tmp_path / "part.pth", out, "--partial")
    assert re.search(r"8 missing, 1 unexpected, 0 mismatched .*head\.roi_heads", result.output)
    assert load_detector(out).report.complete


def test_generator_and_discriminator_are_converted(tmp_path):
    torch.save({"model": reference_tensors("generator")}, tmp_path / "generator.pth")
    result = call(tmp_path / "generator.pth", tmp_path / "interpolator.safetensors")
    assert re.search(r"generator(.|\n)* 23 matched", result.output)
    assert AFInterpolator.load(tmp_path / "interpolator.safetensors").channels == 256
    narrow = {discriminator_key(name): value for name, value in PatchDiscriminator(8).state_dict().items()}
    torch.save(narrow, tmp_path / "discriminator.pth")
    call(tmp_path / "discriminator.pth", tmp_path / "discriminator.safetensors")
    assert load_weights(PatchDiscriminator(8), tmp_path / "discriminator.safetensors").complete
    with pytest.raises(UserError, match="--classes"):
        call(tmp_path / "generator.pth", tmp_path / "out.safetensors", "--classes", "a")


def test_a_link_that_the_user_names_as_target_is_followed_for_every_kind_of_weights(file, tmp_path):
    narrow = {discriminator_key(name): value for name, value in PatchDiscriminator(8).state_dict().items()}
    torch.save(narrow, tmp_path / "discriminator.pth")
    for source in (file, tmp_path / "discriminator.pth"):
        link, target = tmp_path / f"{source.stem}-link.safetensors", tmp_path / f"{source.stem}-target.safetensors"
        link.symlink_to(target.name)
        convert(source, link)
        assert link.is_symlink()
        assert read_tensors(target)[0]


def test_afictl_file_gets_other_classes(file, tmp_path):
    call(file, tmp_path / "one.safetensors")
    result = call(tmp_path / "one.safetensors", tmp_path / "two.safetensors", "--classes", "cat,dog")
    assert result.exit_code == 0
    assert load_detector(tmp_path / "two.safetensors").classes == ("cat", "dog")
    assert read_tensors(tmp_path / "one.safetensors")[1]["category_ids"] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["IN", "out.pth"], ".safetensors"),
        (["IN", "out.safetensors", "--classes", "cat"], "--classes: 1 .* 2 "),
        (["IN", "out.safetensors", "--classes", "cat,cat"], "--classes cat,cat"),
        (["IN", "out.safetensors", "--classes", "none.json"], r"--classes none\.json"),
        (["IN", "out.safetensors", "--set", "backbone.strides=1"], r"backbone\.strides"),
        (["IN", "out.safetensors", "--set", "neck.channels=8"], r"model_final\.pth: .*mismatched"),
        (["IN", "out.safetensors", "--set", "input.std=[1,1,1]"], r"input\.std: .*--rgb"),
        (["CONVERTED", "CONVERTED"], "converted.safetensors"),
        (["CONVERTED", "out.safetensors", "--rgb"], r"converted\.safetensors: --rgb"),
        (["none.pth", "out.safetensors"], r"none\.pth"),
        (["OTHER", "out.safetensors"], r"other\.pth: .*fc\.weight"),
        (["MSRA", "out.safetensors"], r"msra\.pth: .*--backbone-weights"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(file, tmp_path, monkeypatch, arguments, fact):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backbone_file, "_NETWORKS", ("resnet18",))  # of which each is built
    if "CONVERTED" in arguments:
        call(file, "converted.safetensors")
    torch.save({"fc.weight": torch.zeros(2)}, "other.pth")
    torch.save({"conv1_w": torch.zeros(64, 3, 7, 7), "res2_0_branch2a_w": torch.zeros(64, 64, 1, 1)}, "msra.pth")
    file_names = {"IN": file.name, "CONVERTED": "converted.safetensors", "OTHER": "other.pth", "MSRA": "msra.pth"}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=fact) as error:
        call(*(file_names.get(argument, argument) for argument in arguments))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before
