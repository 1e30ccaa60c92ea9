"""Backbone maps that the tests of necks share."""

from collections.abc import Mapping

from torch import Tensor

from tests.helpers.golden_files import golden_input

RESNET50 = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
SWIN_L = {"res3": 384, "res4": 768, "res5": 1536}
NARROW = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}


def features(channels: Mapping[str, int], height: int, width: int, images: int = 1) -> dict[str, Tensor]:
    """Backbone maps of height x width images, rounding up as strided convolutions do."""
    maps = {}
    for seed, (level, count) in enumerate(channels.items()):
        stride = 2 ** int(level[3:])
        maps[level] = golden_input(images, count, -(-height // stride), -(-width // stride), seed=seed)
    return maps
