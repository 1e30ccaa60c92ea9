"""TensorFlow's padding of timm's layers as constants: maps are those of timm, and graphs hold numbers."""

import pytest
import torch
from timm.layers import create_conv2d, create_pool2d
from timm.layers.std_conv import ScaledStdConv2dSame, StdConv2dSame
from torch import nn
from torch.export import Dim

from afictl.export.formats import trace
from afictl.export.same_padding import constant_same_padding
from tests.helpers.backbones import build

LAYERS = {
    "convolution": lambda kernel, **settings: create_conv2d(4, 4, kernel, padding="same", **settings),
    "depthwise": lambda kernel, **settings: create_conv2d(4, 4, kernel, padding="same", depthwise=True, **settings),
    "mixed": lambda kernel, **settings: create_conv2d(4, 4, [kernel, kernel + 2], padding="same", **settings),
    "standardised": lambda kernel, **settings: StdConv2dSame(4, 4, kernel, **settings),
    "scaled": lambda kernel, **settings: ScaledStdConv2dSame(4, 4, kernel, **settings),
    "maximum": lambda kernel, stride, dilation: create_pool2d("max", kernel, stride, padding="same"),
    "average": lambda kernel, stride, dilation: create_pool2d("avg", kernel, stride, padding="same"),
}
NETWORKS = ("tf_efficientnet_lite0", "tf_mixnet_s", "tf_mobilenetv3_small_075")


@torch.no_grad()
@pytest.mark.parametrize("kind", LAYERS)
def test_maps_of_a_layer_are_those_of_timm(kind):
    torch.manual_seed(0)
    for kernel, stride, dilation in [(k, s, d) for k in range(1, 8) for s in (1, 2, 4) for d in (1, 2)]:
        layer = LAYERS[kind](kernel, stride=stride, dilation=dilation)
        image = torch.randn(1, 4, 32, 20)
        with constant_same_padding():
            actual = layer(image)
        assert actual.shape == (1, 4, 32 // stride, 20 // stride)
        assert torch.equal(actual, layer(image)), (kernel, stride, dilation)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_a_network_are_those_of_timm(name):
    torch.manual_seed(0)
    backbone = build(name).eval()
    for size_hw in ((64, 96), (160, 32)):
        image = torch.randn(1, 3, *size_hw)
        with constant_same_padding():
            actual = backbone(image)
        expected = backbone(image)
        assert all(torch.equal(actual[level], expected[level]) for level in expected)


def test_padding_in_a_graph_is_of_numbers():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(*(create_conv2d(3, 3, k, stride=2, padding="same") for k in (3, 5, 2)))

        def forward(self, image):
            return self.layers(nn.functional.pad(image, (0, -image.shape[2] % 8, 0, -image.shape[1] % 8))[None])

    image, sizes = torch.randn(3, 45, 83), {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    with constant_same_padding():
        program = trace("torch-export", Graph(), [image], [sizes])
    pads = [list(node.args[1]) for node in program.graph.nodes if node.target == torch.ops.aten.pad.default]
    assert pads[1:] == [[0, 1, 0, 1], [1, 2, 1, 2], [0, 0, 0, 0]]


def test_timm_pads_maps_of_any_size_afterwards():
    layer, image = create_conv2d(1, 1, 3, stride=2, padding="same"), torch.randn(1, 1, 5, 7)
    expected = layer(image)
    with constant_same_padding():
        assert not torch.equal(layer(image), expected)
    assert torch.equal(layer(image), expected)
    with pytest.raises(ZeroDivisionError), constant_same_padding():
        1 / 0  # noqa: B018
    assert torch.equal(layer(image), expected)
