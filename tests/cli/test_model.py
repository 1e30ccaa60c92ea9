from pathlib import Path

import pytest
from typer.testing import CliRunner

from afictl.cli.model import app
from afictl.errors import UserError
from afictl.presets import list_presets, list_torchvision_presets, load_preset


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def row(output: str, name: str) -> list[str]:
    """The words of the first line that starts with the word ``name``."""
    return next(line.split() for line in output.splitlines() if line.split()[:1] == [name])


def test_list_shows_every_preset_with_its_parts() -> None:
    output = run("list")
    for name in (*list_presets(), *list_torchvision_presets()):
        assert name in output
    expected = "mask-rcnn-r50-fpn mask-rcnn resnet50 fpn 39.0 / 35.5 41.5 / 37.4"
    assert row(output, "mask-rcnn-r50-fpn") == expected.split()
    assert row(output, "faster-rcnn-r50-fpn")[4:] == ["-", "-"]
    assert "self-training" in output


def test_show_prints_parts_and_the_share_of_the_interpolator() -> None:
    output = run("show", "mask-rcnn-r50-fpn", "--size", "1333x800")
    assert "multiply-adds at 1333x800" in output
    assert " ".join(row(output, "backbone")[:10]) == "backbone resnet50.tv_in1k 4 8 16 32 256 512 1024 2048"
    assert row(output, "interpolator")[3:6] == ["7,834,624", "211.84", "G"]
    assert row(output, "total")[1] == "52,177,840"
    assert "interpolator 'afi': 15.0% of the parameters, 44.1% of the multiply-adds" in output


def test_show_measures_a_model_of_torchvision() -> None:
    output = run("show", "torchvision:maskrcnn_resnet50_fpn", "--size", "1088x800", "--classes", "90")
    assert " ".join(row(output, "neck")[:8]) == "neck fpn 4 8 16 32 64 256"
    assert row(output, "interpolator")[1:4] == ["nearest", "256", "0"]
    assert "100 regions" in output
    assert row(output, "total")[1] == "44,401,393"  # torchvision's own number
    afi = run("show", "torchvision:fcos_resnet50_fpn", "--size", "64x64", "--interpolator", "afi")
    assert row(afi, "interpolator")[3] == "7,834,624"


def test_show_resolved_of_a_model_of_torchvision_is_a_preset_file(tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text(run("show", "torchvision:fcos_resnet50_fpn", "--resolved", "--interpolator", "bilinear"))
    preset = load_preset(file)
    assert preset.detector == load_preset("torchvision:fcos_resnet50_fpn").detector
    assert preset.interpolator.kind == "bilinear"


def test_show_with_another_interpolator_size_and_setting() -> None:
    options = ("--interpolator", "nearest", "--size", "96x64", "--classes", "3", "--set", "neck.channels=32")
    output = run("show", "faster-rcnn-r18-fpn-tiny", *options)
    assert "multiply-adds at 96x64" in output
    assert row(output, "interpolator")[1:4] == ["nearest", "32", "0"]
    assert "mask head" not in output


def test_show_resolved_prints_a_preset_file(tmp_path: Path) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text(run("show", "mask-rcnn-r18-fpn-tiny", "--resolved", "--set", "train.lr=0.5"))
    assert load_preset(file) == load_preset("mask-rcnn-r18-fpn-tiny", ["train.lr=0.5"])
    assert "extends" not in file.read_text()
    assert "kind: bicubic" in run("show", "mask-rcnn-r18-fpn-tiny", "--resolved", "--interpolator", "bicubic")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["mask-rcnn-r50-fp"], "'mask-rcnn-r50-fp'.*'mask-rcnn-r50-fpn'.*'afictl model list'"),
        (["foo"], "'foo'.*'afictl model list'"),
        (["torchvision:foo"], "torchvision.*'foo'.*'afictl model list'"),
        (["mask-rcnn-r50-fpn", "--resolved", "--classes", "80"], "--classes .*--resolved"),
        (["torchvision:maskrcnn_resnet50_fpn2"], "'maskrcnn_resnet50_fpn2'.*'maskrcnn_resnet50_fpn"),
        (["torchvision:fcos_resnet50_fpn", "--set", "neck.channels=64"], r"neck\.channels.* 256 .*fcos"),
        (["mask-rcnn-r50-fpn", "--size", "800"], "--size 800: "),
        (["mask-rcnn-r50-fpn", "--size", "0x5"], "--size 0x5: "),
        (["mask-rcnn-r50-fpn", "--interpolator", "neerest"], "neerest.*'nearest'"),
    ],
)
def test_wrong_arguments_are_user_errors(arguments: list[str], facts: str) -> None:
    with pytest.raises(UserError, match=facts):
        run("show", *arguments)
