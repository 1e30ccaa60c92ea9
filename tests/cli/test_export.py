"""``afictl export``: mistakes in the command line, and the interpolator of a file."""

import sys

import pytest

from afictl import build_interpolator


@pytest.fixture
def interpolator(tmp_path):
    """A file of an interpolator, and the folder of outputs."""
    path = tmp_path / "interpolator.safetensors"
    build_interpolator("pixel-shuffle", 4).save(path)
    return path


def test_an_interpolator_as_a_program_of_torch_export(afictl, interpolator, tmp_path):
    output = tmp_path / "out.pt2"
    arguments = ("--weights", interpolator, "--part", "interpolator", "--format", "torch-export")
    code, printed, errors = afictl("export", *arguments, "--output", output)
    assert code == 0, errors
    assert "random maps" in printed
    assert output.is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--output", "a.pt2"), "--format onnx ends in .onnx"),
        (("--output", "a.onnx", "--format", "torch-export"), "ends in .pt2"),
        (("--output", "a.onnx", "--format", "tflite"), "onnx or torch-export"),
        (("--output", "a.onnx", "--part", "neck"), "detector or interpolator"),
        (("--output", "a.onnx", "--part", "interpolator", "--data", "."), "--data"),
        (("--output", "a.onnx"), "not a detector"),
    ],
)
def test_mistakes_are_one_line(afictl, interpolator, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, errors = afictl("export", "--weights", interpolator, *arguments)
    assert code == 2
    assert words in errors
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [interpolator.name]


def test_without_onnxruntime_the_extra_is_named(afictl, interpolator, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, errors = afictl("export", "--weights", interpolator, "--output", tmp_path / "a.onnx")
    assert code == 2
    assert "pip install 'afictl[export]'" in errors
