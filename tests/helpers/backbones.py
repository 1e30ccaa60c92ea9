"""Backbones with random weights whose stages are all trained by default."""

from afictl.backbones import Backbone, build_backbone
from afictl.presets import BackboneConfig

LEVELS = ("res2", "res3", "res4", "res5")
SWIN = "swin_tiny_patch4_window7_224"
NARROW = {"embed_dim": 32, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4, "drop_path_rate": 0.0}
"""Options of a narrow Swin, those of the reference."""


def build(name: str = "resnet18", levels: tuple[str, ...] = LEVELS, **values: object) -> Backbone:
    settings = {"pretrained": False, "frozen_stages": 0, "norm": "batch", **values}
    return build_backbone(BackboneConfig(name=name, **settings), levels)


def build_swin(
    levels: tuple[str, ...] = LEVELS, options: dict[str, object] | None = None, **values: object
) -> Backbone:
    return build(SWIN, levels, options={**NARROW, **(options or {})}, **values)
