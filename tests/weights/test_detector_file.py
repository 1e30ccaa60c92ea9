import pytest
import torch

from afictl import AFInterpolator, UserError, build_detector, load_preset
from afictl.tensor_files import read_tensors, save_tensors
from afictl.weights import load_detector, save_detector

METADATA = {"classes": ["cat", "dog"], "category_ids": [3, 17], "step": 12, "metrics": {"box/AP": 31.5}}
PRESET = "faster-rcnn-r18-fpn-tiny"


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    preset = load_preset(PRESET, ["neck.channels=16", "detector.fc_width=32"])
    return build_detector(preset, num_classes=2, interpolator=AFInterpolator(16, blocks=1, growth=4))


@pytest.fixture
def file(detector, tmp_path):
    save_detector(tmp_path / "best.safetensors", detector, METADATA)
    return tmp_path / "best.safetensors"


def test_loaded_detector_equals_the_saved_one(detector, file):
    loaded = load_detector(file.parent)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = detector.eval().neck(detector.backbone(image))
        actual = loaded.detector.neck(loaded.detector.backbone(image))
    for level, value in expected.items():
        torch.testing.assert_close(actual[level], value)
    assert not loaded.detector.training
    assert loaded.classes == ("cat", "dog")
    assert loaded.metadata["category_ids"] == [3, 17]
    assert loaded.metadata["step"] == 12
    assert loaded.preset.neck.channels == 16
    assert loaded.preset.interpolator.kind == "afi"
    assert loaded.preset.interpolator.options == {"blocks": 1, "growth": 4, "residual_scale": 0.2}


def test_stored_interpolator_can_be_replaced(detector, file):
    loaded = load_detector(file, "nearest")
    assert loaded.preset.interpolator.kind == "nearest"
    assert [str(difference) for difference in loaded.report.differences] == ["interpolator.kind=afi"]
    assert not loaded.report.complete
    assert load_detector(file).report.complete
    assert not list(loaded.detector.neck.interpolator.parameters())
    fresh = AFInterpolator(16, blocks=1, growth=4)
    expected = fresh.tail.weight.clone()
    interpolator = load_detector(file, fresh).detector.neck.interpolator
    assert torch.equal(interpolator.tail.weight, expected)
    stored = detector.neck.output_convs["p2"].weight
    assert torch.equal(loaded.detector.neck.output_convs["p2"].weight, stored)


def test_interrupted_write_leaves_the_old_file(detector, file, monkeypatch):
    before = file.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("afictl.tensor_files.save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_detector(file, detector, {**METADATA, "step": 13})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_new_file_has_the_rights_of_any_new_file(file):
    (file.parent / "other").touch()
    assert file.stat().st_mode == (file.parent / "other").stat().st_mode


def test_interpolator_file_is_not_a_detector(tmp_path):
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "interpolator.safetensors")
    with pytest.raises(UserError, match=r"interpolator\.safetensors: .*not a detector"):
        load_detector(tmp_path / "interpolator.safetensors")


def test_foreign_file_is_not_a_detector(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    with pytest.raises(UserError, match=r"foreign\.pth: .*fc\.weight"):
        load_detector(tmp_path / "foreign.pth")


def change_description(file, **changes):
    tensors, description = read_tensors(file)
    save_tensors(file, tensors, {**description, **changes})


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"version": 99}, "version 99"),
        ({"classes": None}, "classes"),
        ({"classes": ["cat", "dog", "cow"]}, "mismatched"),
        ({"preset": {"neck": {"chanels": 3}}}, r"neck\.chanels: .*'channels'"),
    ],
)
def test_description_that_does_not_fit_is_refused(file, changes, fact):
    change_description(file, **changes)
    with pytest.raises(UserError, match=rf"best\.safetensors.*{fact}") as error:
        load_detector(file)
    assert "\n" not in str(error.value)


def test_control_characters_in_class_names_of_earlier_files_are_escaped(detector, tmp_path):
    """Earlier versions trained classes of such names, which would break tables and lists of predictions."""
    save_detector(tmp_path / "best.safetensors", detector, {**METADATA, "classes": ["red\ncell", "\x1b[31mdog"]})
    assert load_detector(tmp_path).classes == (r"red\ncell", r"\x1b[31mdog")
