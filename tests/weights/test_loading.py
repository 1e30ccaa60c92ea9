import pytest
import timm
import torch
import torchvision
from torch import nn

from afictl import UserError, load_weights
from afictl.backbones import build_backbone
from afictl.presets import BackboneConfig
from afictl.weights import load_backbone_weights


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def test_complete_load_is_reported(tmp_path):
    source, target = network(), network()
    torch.save(source.state_dict(), tmp_path / "all.pt")
    report = load_weights(target, tmp_path / "all.pt")
    assert report.complete
    assert str(report) == "9 tensors loaded"
    image = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(target.eval()(image), source.eval()(image))


def test_tensors_that_do_not_fit_are_named_and_unchanged(tmp_path):
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {**network().state_dict(), "2.weight": torch.zeros(5, 4, 1, 1), "extra": torch.zeros(1)}
    del state["0.bias"]
    torch.save(state, tmp_path / "some.pt")
    report = load_weights(target, tmp_path / "some.pt")
    assert report.missing == ("0.bias",)
    assert report.unexpected == ("extra",)
    assert report.mismatched == ("2.weight",)
    assert "0.weight" in report.matched
    assert not report.complete
    assert str(report) == "7 tensors loaded; 1 missing (0.bias); 1 unexpected (extra); 1 mismatched (2.weight)"
    assert torch.equal(target.state_dict()["0.weight"], state["0.weight"])
    for name in ("0.bias", "2.weight"):
        assert torch.equal(target.state_dict()[name], before[name])


def test_batch_counters_of_norms_are_ignored(tmp_path):
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pt")
    assert load_weights(network(), tmp_path / "old.pt").complete


@pytest.mark.parametrize("norm", ["batch", "frozen-batch"])
def test_torchvision_resnet_gives_torchvision_features(tmp_path, norm):
    reference = torchvision.models.resnet18(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    backbone = build_backbone(BackboneConfig(name="resnet18", norm=norm)).eval()
    assert load_backbone_weights(backbone, tmp_path / "resnet18.pth").complete
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = reference.avgpool(backbone(image)["res5"]).flatten(1)
        torch.testing.assert_close(reference.fc(pooled), reference(image), rtol=1e-4, atol=1e-4)


def test_weights_of_another_resnet_are_refused(tmp_path):
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    backbone = build_backbone(BackboneConfig(name="resnet18"))
    with pytest.raises(UserError, match=r"resnet34\.pth: .* resnet18: .*unexpected"):
        load_backbone_weights(backbone, tmp_path / "resnet34.pth")


def test_swin_of_timm_is_loaded_without_its_classifier_and_another_window_is_refused(tmp_path):
    narrow = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}
    donor = timm.create_model("swin_tiny_patch4_window7_224", **narrow)
    torch.save({"model": donor.state_dict()}, tmp_path / "swin.pth")
    config = BackboneConfig(name="swin_tiny_patch4_window7_224", options=narrow)
    backbone = build_backbone(config)
    assert load_backbone_weights(backbone, tmp_path / "swin.pth").complete
    assert torch.equal(backbone.net.layers_3.blocks[0].attn.qkv.weight, donor.layers[3].blocks[0].attn.qkv.weight)
    other = build_backbone(config.model_copy(update={"options": {**narrow, "window_size": 4}}))
    with pytest.raises(UserError, match=r"4 mismatched .*relative_position_bias_table"):
        load_backbone_weights(other, tmp_path / "swin.pth")
