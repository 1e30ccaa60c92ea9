"""Models that enlarge as those of libraries which are not installed for the tests: the same structure, few channels."""

import torch
from torch import nn
from torch.nn import functional as F


class TopDownPyramid(nn.Module):
    """mmdetection's FPN, and with ``bottom_up`` its PAFPN: a loop that interpolates to the size of the next map."""

    def __init__(self, in_channels=(8, 12, 16), channels=8, bottom_up=False):
        super().__init__()
        self.lateral_convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in in_channels)
        self.fpn_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        down = range(len(in_channels) - 1) if bottom_up else ()
        self.downsample_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, padding=1) for _ in down)

    def forward(self, inputs):
        laterals = [conv(maps) for conv, maps in zip(self.lateral_convs, inputs, strict=True)]
        for level in reversed(range(len(laterals) - 1)):
            size = laterals[level].shape[2:]
            laterals[level] = laterals[level] + F.interpolate(laterals[level + 1], size=size, mode="nearest")
        for level, conv in enumerate(self.downsample_convs):
            laterals[level + 1] = laterals[level + 1] + conv(laterals[level])
        return tuple(conv(maps) for conv, maps in zip(self.fpn_convs, laterals, strict=True))


class ConcatPyramid(nn.Module):
    """mmdetection's necks of YOLOX and RTMDet: one ``nn.Upsample`` that runs at the width of every step."""

    def __init__(self, in_channels=(8, 12, 16)):
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        pairs = list(zip(in_channels[::-1], in_channels[-2::-1], strict=False))
        self.reduce_layers = nn.ModuleList(nn.Conv2d(width, finer, 1) for width, finer in pairs)
        self.top_down_blocks = nn.ModuleList(nn.Conv2d(2 * finer, finer, 1) for _, finer in pairs)

    def forward(self, inputs):
        outputs = [inputs[-1]]
        for step, (reduce, block) in enumerate(zip(self.reduce_layers, self.top_down_blocks, strict=True)):
            coarse = reduce(outputs[0])
            outputs[0] = coarse
            fine = torch.cat([self.upsample(coarse), inputs[-2 - step]], 1)
            outputs.insert(0, block(fine))
        return tuple(outputs)


class Concat(nn.Module):
    def forward(self, maps):
        return torch.cat(maps, 1)


class LayerList(nn.Module):
    """ultralytics' models: layers of a YAML file with index, sources and type name as attributes."""

    def __init__(self, widths=(8, 16)):
        super().__init__()
        small, large = widths
        conv = {"kernel_size": 3, "stride": 2, "padding": 1}
        layers = [
            (-1, nn.Conv2d(3, small, **conv)),
            (-1, nn.Conv2d(small, small, **conv)),
            (-1, nn.Conv2d(small, large, **conv)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 1], Concat()),
            (-1, nn.Conv2d(large + small, small, 1)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 0], Concat()),
        ]
        self.model = nn.Sequential(*(layer for _, layer in layers))
        for index, (source, layer) in enumerate(layers):
            layer.i, layer.f = index, source
            layer.type = f"{type(layer).__module__}.{type(layer).__name__}"
            layer.np = sum(parameter.numel() for parameter in layer.parameters())

    def forward(self, images):
        outputs, x = [], images
        for layer in self.model:
            if layer.f != -1:
                x = [x if source == -1 else outputs[source] for source in layer.f]
            x = layer(x)
            outputs.append(x)
        return x


class SemanticHead(nn.Module):
    """detectron2's head of a semantic FPN: ``nn.Upsample`` after the convolutions of a level, then a fourfold step."""

    def __init__(self, channels=8, width=16, classes=3):
        super().__init__()
        self.scale_heads = []
        for level in range(3):
            layers = []
            for step in range(max(1, level)):
                layers.append(nn.Conv2d(width if step else channels, width, 3, padding=1))
                if level > 0:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*layers))
            self.add_module(f"p{level + 2}", self.scale_heads[-1])
        self.predictor = nn.Conv2d(width, classes, 1)

    def forward(self, maps):
        fused = sum(head(value) for head, value in zip(self.scale_heads, maps, strict=True))
        return F.interpolate(self.predictor(fused), scale_factor=4, mode="bilinear", align_corners=False)


class Everything(nn.Module):
    """Every way to enlarge, in one model: reached are ``up`` and call 1 of the model itself, also beside its parts."""

    def __init__(self):
        super().__init__()
        self.pool = PooledContext(8)
        self.stem = nn.Conv2d(3, 8, 3, 8, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.learned = nn.ConvTranspose2d(8, 4, 2, 2)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, images):
        half = F.interpolate(images, scale_factor=0.5)  # call 0
        x = self.up(self.pool(self.stem(half)))
        x = F.interpolate(x, scale_factor=2.0)  # call 1
        x = self.shuffle(self.learned(x)[:, :4])
        x = F.interpolate(x, scale_factor=1.5, mode="bilinear")  # call 2
        return F.interpolate(x, size=[4 * side for side in x.shape[2:]])  # call 3


class PooledContext(nn.Module):
    """A pyramid pooling module: enlarges maps of fixed sizes, twofold only where the input has twice that size."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        pooled = self.conv(F.adaptive_avg_pool2d(x, 2))
        return x + F.interpolate(pooled, size=x.shape[2:], mode="bilinear")


def maps(widths, height=16, width=24):
    """Maps of a backbone, finest first, each half as large as the one before."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.rand(1, channels, height >> level, width >> level, generator=generator)
        for level, channels in enumerate(widths)
    )
