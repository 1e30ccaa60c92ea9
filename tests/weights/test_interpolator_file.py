"""Interpolators and discriminators from every kind of file that contains one."""

import pytest
import torch

from afictl import AFInterpolator, PatchDiscriminator, UserError, build_detector, load_preset, load_weights
from afictl.interpolators import build_interpolator, learned_kinds
from afictl.weights import load_interpolator, save_detector
from afictl.weights.conversion import convert
from afictl.weights.layouts.detectron2_names import discriminator_key, generator_key
from tests.helpers.foreign_checkpoints import to_detectron2
from tests.helpers.golden_files import apply_rule_h, reference_tensors

SMALL = ["neck.channels=16", "detector.fc_width=16", "interpolator.options={blocks: 2, growth: 4}"]


def assert_equal(one, other):
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.srf_module."])
def test_a_generator_of_afigan_is_an_interpolator(prefix, tmp_path):
    tensors = {f"{prefix}{name}": value for name, value in reference_tensors("generator").items()}
    torch.save({"model": tensors, "iteration": 299_999}, tmp_path / "generator.pth")
    interpolator = load_interpolator(tmp_path / "generator.pth")
    assert interpolator.options == {"blocks": 3, "growth": 32, "residual_scale": 0.2}
    expected = AFInterpolator()
    apply_rule_h(expected, generator_key, "generator")
    assert_equal(interpolator, expected)
    if not prefix:
        assert load_weights(AFInterpolator(), tmp_path / "generator.pth").complete


def test_a_discriminator_of_afigan_is_loaded(tmp_path):
    torch.save(reference_tensors("discriminator"), tmp_path / "discriminator.pth")
    actual, expected = PatchDiscriminator(), PatchDiscriminator()
    assert load_weights(actual, tmp_path / "discriminator.pth").complete
    apply_rule_h(expected, discriminator_key, "discriminator")
    assert_equal(actual, expected)
    with pytest.raises(UserError, match=r"discriminator\.pth: .*not an interpolator"):
        load_interpolator(tmp_path / "discriminator.pth")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_detector(load_preset("faster-rcnn-r18-fpn-tiny", SMALL), num_classes=2)


METADATA = {"classes": ["cat", "dog"], "category_ids": [1, 2], "step": 0, "metrics": {}}


def test_the_interpolator_inside_a_detector_is_loaded(detector, tmp_path):
    save_detector(tmp_path / "run" / "best.safetensors", detector, METADATA)
    torch.save({"model": to_detectron2(detector)}, tmp_path / "model_final.pth")
    for source in (tmp_path / "run", tmp_path / "run" / "best.safetensors", tmp_path / "model_final.pth"):
        assert_equal(load_interpolator(source), detector.neck.interpolator)


def test_the_interpolator_inside_a_model_of_torchvision_is_loaded(tmp_path):
    small = ["interpolator.kind=afi", "interpolator.options={blocks: 1, growth: 4}"]
    detector = build_detector(load_preset("torchvision:retinanet_resnet50_fpn", small), num_classes=2)
    save_detector(tmp_path / "best.safetensors", detector, METADATA)
    assert_equal(load_interpolator(tmp_path / "best.safetensors"), detector.neck.interpolator)


@pytest.mark.parametrize("kind", learned_kinds())
def test_afictl_file_is_read_and_converted(kind, tmp_path):
    interpolator = build_interpolator(kind, 8)
    interpolator.save(tmp_path / "interpolator.safetensors")
    convert(tmp_path / "interpolator.safetensors", tmp_path / "converted.safetensors")
    for name in ("interpolator", "converted"):
        loaded = load_interpolator(tmp_path / f"{name}.safetensors")
        assert type(loaded) is type(interpolator)
        assert_equal(loaded, interpolator)


def test_files_without_a_learned_interpolator_are_refused(detector, tmp_path):
    nearest = build_detector(detector.preset, 2, "nearest")
    save_detector(tmp_path / "nearest.safetensors", nearest, METADATA)
    with pytest.raises(UserError, match=r"nearest\.safetensors: .*--interpolator nearest"):
        load_interpolator(tmp_path / "nearest.safetensors")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: .*fc\.weight"):
        load_interpolator(tmp_path / "other.pth")
    tensors = reference_tensors("generator")
    del tensors["Generators.0.4.0.bias"]
    torch.save(tensors, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"cut\.pth: .*tail\.bias"):
        load_interpolator(tmp_path / "cut.pth")
