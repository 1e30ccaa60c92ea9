"""ImageNet ResNets in detectron2's forms."""

import re

import pytest
import timm
import torch

from afictl import UserError
from afictl.backbones import build_backbone
from afictl.backbones.resnet import resnet_key
from afictl.presets import BackboneConfig, InputConfig
from afictl.weights import load_backbone_weights
from tests.helpers.foreign_checkpoints import MEAN, save_pkl

NAME = "resnet26"  # the smallest with bottlenecks
BRANCHES = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}


@pytest.fixture(scope="module")
def original():
    """A network in detectron2's names as MSRA's are: trained on BGR in 0..255, no statistics in its norms."""
    torch.manual_seed(0)
    net = timm.create_model(NAME)
    tensors = {resnet_key(name): value for name, value in net.state_dict().items() if not name.startswith("fc.")}
    tensors = {name: value for name, value in tensors.items() if not re.search("running|num_batches", name)}
    tensors |= {name: torch.rand_like(value) + 0.5 for name, value in tensors.items() if "norm.weight" in name}
    tensors["stem.conv1.weight"] = tensors["stem.conv1.weight"] / 60
    return tensors


def caffe2(name):
    """detectron2's name -> Caffe2's."""
    kind = {"norm.weight": "bn_s", "norm.bias": "bn_b", "weight": "w"}[re.search(r"(norm\.)?(weight|bias)$", name)[0]]
    if name.startswith("stem."):
        return f"conv1_{kind}" if kind == "w" else f"res_conv1_{kind}"
    stage, block, part, *_ = name.split(".")
    return f"{stage}_{block}_{BRANCHES[part]}_{kind}"


def backbone(stride_in_1x1=True, **changes):
    return build_backbone(BackboneConfig(name=NAME, stride_in_1x1=stride_in_1x1, **changes)).eval()


def features_of_the_original(tensors, image):
    """Features of ``image``, RGB in 0..255, with the normalization of the training."""
    net = backbone()
    weights = {name: tensors[resnet_key(name)] for name in net.net.state_dict() if resnet_key(name) in tensors}
    net.net.load_state_dict(weights, strict=False)
    with torch.no_grad():
        return net((image - MEAN.view(3, 1, 1)).flip(0)[None])


@pytest.mark.parametrize("form", ["caffe2", "modern", "modern with statistics"])
def test_msra_weights_give_the_features_of_the_original(original, form, tmp_path):
    if form == "caffe2":
        tensors = {caffe2(name): value for name, value in original.items()}
        assert "res2_0_branch2a_bn_s" in tensors
        tensors |= {"fc1000_w": torch.zeros(1000, 2048), "fc1000_b": torch.zeros(1000), "conv1_b": torch.zeros(64)}
        tensors["conv1_w_momentum"] = torch.zeros(1)
    else:
        tensors = dict(original)
        if "statistics" in form:  # frozen norms, as detectron2 saves them
            scales = {name: value for name, value in original.items() if name.endswith("norm.weight")}
            tensors |= {f"{n.removesuffix('weight')}running_mean": torch.zeros_like(v) for n, v in scales.items()}
            tensors |= {
                f"{n.removesuffix('weight')}running_var": 1 - 1e-5 * torch.ones_like(v) for n, v in scales.items()
            }
    save_pkl(tmp_path / "R-26.pkl", tensors)
    view, net = InputConfig(), backbone()
    assert load_backbone_weights(net, tmp_path / "R-26.pkl", view).complete
    image = torch.rand(3, 64, 96) * 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (view.mean, view.std))
    with torch.no_grad():
        actual = net(((image / 255 - mean) / std)[None])
    for level, expected in features_of_the_original(original, image).items():
        # detectron2's frozen variance of 1 - eps instead of 1 changes each of 26 layers by 5e-6.
        torch.testing.assert_close(actual[level], expected, rtol=0, atol=1e-3 * expected.std().item())


def test_caffe2_blobs_under_their_key_are_read(original, tmp_path):
    torch.save({"blobs": {caffe2(name): value for name, value in original.items()}}, tmp_path / "R-26.pth")
    assert load_backbone_weights(backbone(), tmp_path / "R-26.pth").complete


def test_converted_torchvision_weights_are_rgb(original, tmp_path):
    scales = {name: value for name, value in original.items() if name.endswith("norm.weight")}
    statistics = {f"{name.removesuffix('weight')}running_var": 2 * torch.ones_like(v) for name, v in scales.items()}
    statistics |= {f"{name.removesuffix('weight')}running_mean": torch.zeros_like(v) for name, v in scales.items()}
    save_pkl(tmp_path / "torchvision.pkl", original | statistics | {"stem.fc.weight": torch.zeros(1000, 2048)})
    net = backbone(stride_in_1x1=False)
    assert load_backbone_weights(net, tmp_path / "torchvision.pkl").complete
    torch.testing.assert_close(net.net.conv1.weight, original["stem.conv1.weight"], rtol=1e-5, atol=0)
    with pytest.raises(UserError, match=r"3x3.*--set backbone\.stride_in_1x1=false"):
        load_backbone_weights(backbone(), tmp_path / "torchvision.pkl")


def test_another_stride_or_network_is_refused(original, tmp_path):
    save_pkl(tmp_path / "R-26.pkl", original)
    with pytest.raises(UserError, match=r"R-26\.pkl: .*1x1.*--set backbone\.stride_in_1x1=true"):
        load_backbone_weights(backbone(stride_in_1x1=False), tmp_path / "R-26.pkl")
    for name in ("resnet18", "swin_tiny_patch4_window7_224"):
        with pytest.raises(UserError, match=rf"R-26\.pkl: .* {name}: "):
            load_backbone_weights(build_backbone(BackboneConfig(name=name)), tmp_path / "R-26.pkl")
