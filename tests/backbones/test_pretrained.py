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


def forbidden(*_, **__):
    raise AssertionError("the network was used")


@pytest.fixture
def empty_cache(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def test_cached_weights_are_loaded_without_the_network(tmp_path, monkeypatch):
    donor = timm.create_model("resnet18")
    save_file(donor.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    backbone = build_backbone(BackboneConfig(name="resnet18"))
    load_pretrained(backbone)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = donor.eval().forward_features(image)
        torch.testing.assert_close(backbone(image)["res5"], expected, rtol=1e-4, atol=1e-4)


def test_building_never_uses_the_network(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", forbidden)
    build_backbone(BackboneConfig(name="resnet18", pretrained=True))


def test_without_a_network_one_line_names_both_ways_out(monkeypatch, empty_cache, capfd):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", forbidden)  # it would try for a minute
    with pytest.raises(UserError) as error:
        load_pretrained(build_backbone(BackboneConfig(name="resnet18")))
    message = str(error.value)
    assert "resnet18" in message
    assert "no route to host" in message
    assert "--backbone-weights" in message
    assert "--set backbone.pretrained=false" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_weights_that_do_not_exist_are_named(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    with pytest.raises(UserError, match="timm has none"):
        load_pretrained(build_backbone(BackboneConfig(name="resnetblur18")))
