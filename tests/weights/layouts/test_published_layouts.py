"""Pyramids of the released layouts from raw pixels, against the published networks written out with PyTorch alone.

The weights stand in a checkpoint under the names of the layout, with the scale of the hash rule of the golden numbers.
Expected are the finished levels p2 to p6 of the network that the published configuration describes: its order of
channels, pixel mean and deviation, position of strides and of pooling, eps of norms, and paths of the neck.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from afictl import load_preset
from afictl.weights import load_detector
from tests.helpers.golden_files import H_FULL, golden_image, reference_tensors

Tensors = Mapping[str, Tensor]
BOTTOM_UP = "backbone.bottom_up."
SPREAD = 1e-3
"""Allowed difference, in standard deviations of the level."""


@dataclass(frozen=True)
class Published:
    """Settings of a published configuration that its tensors do not show."""

    bgr: bool
    mean: tuple[float, float, float]
    """In the order of the channels, like ``std``."""
    std: tuple[float, float, float]
    stem: Callable[[Tensors, Tensor], Tensor]
    conv2: Callable[[Tensors, str, Tensor, int], Tensor]
    stride_in_1x1: bool = False
    pooled_shortcut: bool = False

    def pixels(self, image: Tensor) -> Tensor:
        """Normalised (1, 3, H, W) of an RGB image in 0..255."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return ((image.flip(0) if self.bgr else image) - mean).div(std)[None]


def norm(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    weight, bias, mean, var = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)


def conv(tensors: Tensors, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution with 'same' padding, and its norm if it has one."""
    weight = tensors[f"{name}.weight"]
    x = F.conv2d(x, weight, tensors.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)
    return norm(tensors, f"{name}.norm", x) if f"{name}.norm.weight" in tensors else x


def plain_stem(tensors: Tensors, x: Tensor) -> Tensor:
    return conv(tensors, f"{BOTTOM_UP}stem.conv1", x, 2).relu()


def deep_stem(tensors: Tensors, x: Tensor) -> Tensor:
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = conv(tensors, f"{BOTTOM_UP}stem.conv1_{number}", x, stride).relu()
    return x


def plain_conv2(tensors: Tensors, name: str, x: Tensor, stride: int) -> Tensor:
    return conv(tensors, f"{name}.conv2", x, stride).relu()


def split_attention(tensors: Tensors, name: str, x: Tensor, stride: int) -> Tensor:
    """ResNeSt's second convolution (https://arxiv.org/abs/2004.08955): radix 2, one group, then average pooling."""
    name = f"{name}.conv2"
    x = norm(tensors, f"{name}.bn0", conv(tensors, f"{name}.conv", x, groups=2)).relu()
    splits = x.chunk(2, 1)
    gap = sum(splits).mean((2, 3), keepdim=True)
    gap = norm(tensors, f"{name}.bn1", conv(tensors, f"{name}.fc1", gap)).relu()
    weights = conv(tensors, f"{name}.fc2", gap).view(1, 2, -1).softmax(1)[..., None, None]
    x = splits[0] * weights[:, 0] + splits[1] * weights[:, 1]
    return F.avg_pool2d(x, 3, stride, padding=1) if stride > 1 else x


def bottleneck(tensors: Tensors, name: str, x: Tensor, stride: int, network: Published) -> Tensor:
    strides = (stride, 1) if network.stride_in_1x1 else (1, stride)
    y = conv(tensors, f"{name}.conv1", x, strides[0]).relu()
    y = conv(tensors, f"{name}.conv3", network.conv2(tensors, name, y, strides[1]))
    if f"{name}.shortcut.weight" in tensors:
        if network.pooled_shortcut:
            x = F.avg_pool2d(x, stride, stride, ceil_mode=True, count_include_pad=False)
            stride = 1
        x = conv(tensors, f"{name}.shortcut", x, stride)
    return (x + y).relu()


def bottom_up(tensors: Tensors, x: Tensor, network: Published) -> list[Tensor]:
    """``res2`` to ``res5``."""
    x, levels = F.max_pool2d(network.stem(tensors, x), 3, 2, 1), []
    for stage in range(2, 6):
        block = 0
        while f"{BOTTOM_UP}res{stage}.{block}.conv1.weight" in tensors:
            stride = 2 if stage > 2 and block == 0 else 1
            x = bottleneck(tensors, f"{BOTTOM_UP}res{stage}.{block}", x, stride, network)
            block += 1
        levels.append(x)
    return levels


def af_interpolator(tensors: Tensors, x: Tensor) -> Tensor:
    """AFI-GAN's generator: bilinear interpolation plus a residual branch."""
    part = "backbone.srf_module.Generators.0."
    y = trunk = F.leaky_relu(conv(tensors, f"{part}0.0", x), 0.2)
    for block in range(3):
        name, maps = f"{part}1.RDBs.{block}", [y]
        for number in range(1, 5):
            maps.append(F.leaky_relu(conv(tensors, f"{name}.conv{number}.0", torch.cat(maps, 1)), 0.2))
        y = y + 0.2 * conv(tensors, f"{name}.conv5", torch.cat(maps, 1))
    y = F.leaky_relu(conv(tensors, f"{part}2.0", trunk + 0.2 * y), 0.2)
    weight, bias = (tensors[f"{part}3.0.{kind}"] for kind in ("weight", "bias"))
    y = conv(tensors, f"{part}4.0", F.leaky_relu(F.conv_transpose2d(y, weight, bias, 2, 2), 0.2))
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) + y


def pyramid(tensors: Tensors, image: Tensor, network: Published) -> list[Tensor]:
    """``p2`` to ``p6`` of an FPN or, if the tensors have one, a PAFPN."""

    def enlarged(x: Tensor) -> Tensor:
        has_interpolator = any(name.startswith("backbone.srf_module.") for name in tensors)
        return af_interpolator(tensors, x) if has_interpolator else F.interpolate(x, scale_factor=2.0, mode="nearest")

    maps = bottom_up(tensors, network.pixels(image), network)
    sums = [conv(tensors, f"backbone.fpn_lateral{level}", x) for level, x in enumerate(maps, start=2)]
    for i in (2, 1, 0):
        sums[i] = sums[i] + enlarged(sums[i + 1])
    output = "fpn_output"
    if "backbone.pafpn_output2.weight" in tensors:
        output = "pafpn_output"
        for i in (1, 2, 3):
            sums[i] = sums[i] + conv(tensors, f"backbone.pafpn_downsample{i + 2}", sums[i - 1], 2).relu()
    levels = [conv(tensors, f"backbone.{output}{level}", x) for level, x in enumerate(sums, start=2)]
    return [*levels, F.max_pool2d(levels[-1], 1, 2)]


CAFFE = Published(True, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), plain_stem, plain_conv2, stride_in_1x1=True)
RESNEST = Published(
    False, (123.68, 116.779, 103.939), (58.393, 57.12, 57.375), deep_stem, split_attention, pooled_shortcut=True
)


@pytest.mark.parametrize(
    ("keys", "preset", "network"),
    [
        ("d2_cascade_mask_rcnn_R50_FPN_3x", "cascade-rcnn-r50-fpn", CAFFE),
        pytest.param("afi_maskrcnn_R50_FPN", "mask-rcnn-r50-fpn", CAFFE, marks=pytest.mark.slow),
        ("afi_maskrcnn_R50_PAFPN", "mask-rcnn-r50-pafpn", CAFFE),
        pytest.param(
            *("afi_cascade_mask_ResNeSt101_PAFPN", "cascade-rcnn-s101-pafpn", RESNEST), marks=pytest.mark.slow
        ),
    ],
)
def test_levels_of_raw_pixels_are_those_of_the_published_network(keys, preset, network, tmp_path):
    tensors = reference_tensors(keys, H_FULL)
    torch.save({"model": tensors, "iteration": 269_999}, tmp_path / "model_final.pth")
    loaded = load_detector(tmp_path / "model_final.pth")
    assert loaded.report.complete
    assert loaded.preset.name == preset
    assert loaded.preset.input == load_preset(preset).input
    image = golden_image(64, 96)
    with torch.no_grad():
        levels = loaded.detector.pyramid([image.float() / 255])
        expected = pyramid(tensors, image.float(), network)
    assert list(levels) == ["p2", "p3", "p4", "p5", "p6"]
    for level, value in zip(levels.values(), expected, strict=True):
        assert (level - value).abs().max() <= SPREAD * value.std()
