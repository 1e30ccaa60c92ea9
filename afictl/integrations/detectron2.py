"""Backbones with an interpolator, registered for detectron2 configurations.

Importing this module registers ``build_afictl_resnet_fpn_backbone``, ``build_afictl_resnet_pafpn_backbone`` and
``build_afictl_resnet_bifpn_backbone``. A training script for detectron2 needs the import and one more line::

    import afictl.integrations.detectron2

    cfg.MODEL.BACKBONE.NAME = "build_afictl_resnet_fpn_backbone"

and, for settings other than the defaults, a call of ``add_afictl_config`` before its YAML file is merged. The bottom-up
network is detectron2's ResNet with the settings of ``cfg.MODEL.RESNETS`` and ``cfg.MODEL.BACKBONE``, so that its
ImageNet weights load. Pyramids are p2..p6 where ``cfg.MODEL.FPN.IN_FEATURES`` begins with ``res2``, else p3..p7 with p6
from ``res5``; the BiFPN's are p3..p7 always. With LazyConfig, ``LazyCall`` the classes ``InterpolatedFPN`` and
``NeckBackbone``.
"""

from __future__ import annotations

from torch import nn

from afictl.errors import UserError
from afictl.interpolators import Interpolator, build_interpolator
from afictl.interpolators.per_step import with_steps

try:
    from detectron2.config import CfgNode
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import BACKBONE_REGISTRY, build_resnet_backbone
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise ModuleNotFoundError(
        "detectron2 is not installed; it is on no package index, see "
        "https://detectron2.readthedocs.io/en/latest/tutorials/install.html",
        name="detectron2",
    ) from None

from afictl.integrations.detectron2_pyramids import InterpolatedFPN, NeckBackbone
from afictl.presets import FPNConfig, parse_neck
from afictl.presets.detectron2_configs import add_afictl_config

__all__ = [
    "InterpolatedFPN",
    "NeckBackbone",
    "add_afictl_config",
    "build_afictl_resnet_bifpn_backbone",
    "build_afictl_resnet_fpn_backbone",
    "build_afictl_resnet_pafpn_backbone",
]

# detectron2's names of norms -> afictl's. SyncBN computes statistics over the batches of all devices.
_NORMS = {"": "none", "BN": "batch", "SyncBN": "batch"}


@BACKBONE_REGISTRY.register()
def build_afictl_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> InterpolatedFPN | NeckBackbone:
    """detectron2's ResNet and FPN with an interpolator; weights of these load by name.

    With ``TOP_DOWN_FROM: p6``, which detectron2's FPN does not have, the FPN is afictl's.
    """
    fpn, neck = cfg.MODEL.FPN, parse_neck(_path_options(cfg))
    if isinstance(neck, FPNConfig) and neck.top_down_from == "p6":
        options = {"norm": _norm(cfg), "fuse": fpn.FUSE_TYPE, "top": _top(cfg)}
        return _neck_backbone(cfg, input_shape, kind="fpn", **options, **_path_options(cfg))
    bottom_up = build_resnet_backbone(cfg, input_shape)
    if _top(cfg) == "pool":
        top_block = LastLevelMaxPool()
    else:
        top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, fpn.OUT_CHANNELS)
    interpolator = with_steps(_interpolator(cfg), neck.interpolators == "per-step", len(fpn.IN_FEATURES) - 1)
    return InterpolatedFPN(
        interpolator,
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_afictl_resnet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NeckBackbone:
    """detectron2's ResNet and afictl's PAFPN."""
    options = {"norm": _norm(cfg), "fuse": cfg.MODEL.FPN.FUSE_TYPE, "top": _top(cfg)}
    return _neck_backbone(cfg, input_shape, kind="pafpn", **options, **_path_options(cfg))


@BACKBONE_REGISTRY.register()
def build_afictl_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NeckBackbone:
    """detectron2's ResNet and afictl's BiFPN, which always has batch norm."""
    options = {key.lower(): value for key, value in _node(cfg).BIFPN.items()}
    return _neck_backbone(cfg, input_shape, kind="bifpn", **options, interpolators=_node(cfg).INTERPOLATORS)


def _neck_backbone(cfg: CfgNode, input_shape: ShapeSpec, **neck: object) -> NeckBackbone:
    bottom_up = build_resnet_backbone(cfg, input_shape)
    backbone = NeckBackbone(bottom_up, _interpolator(cfg), channels=cfg.MODEL.FPN.OUT_CHANNELS, **neck)
    if cfg.MODEL.FPN.NORM == "SyncBN":
        backbone.neck = nn.SyncBatchNorm.convert_sync_batchnorm(backbone.neck)
    return backbone


def _node(cfg: CfgNode) -> CfgNode:
    if "AFICTL" in cfg.MODEL:
        return cfg.MODEL.AFICTL
    defaults = CfgNode({"MODEL": CfgNode()})
    add_afictl_config(defaults)
    return defaults.MODEL.AFICTL


def _path_options(cfg: CfgNode) -> dict[str, object]:
    """The options of the top-down path of FPN and PAFPN."""
    return {"interpolators": _node(cfg).INTERPOLATORS, "top_down_from": _node(cfg).TOP_DOWN_FROM}


def _interpolator(cfg: CfgNode) -> Interpolator:
    node = _node(cfg)
    if node.INTERPOLATOR_FILE:
        return Interpolator.load(node.INTERPOLATOR_FILE)
    return build_interpolator(node.INTERPOLATOR, cfg.MODEL.FPN.OUT_CHANNELS)


def _norm(cfg: CfgNode) -> str:
    norm = cfg.MODEL.FPN.NORM
    if norm not in _NORMS:
        raise UserError(f"MODEL.FPN.NORM: afictl's pyramids have 'BN', 'SyncBN' or '', not {norm!r}")
    return _NORMS[norm]


def _top(cfg: CfgNode) -> str:
    """Source of the levels above p5: as in detectron2's R-CNN, or as in its RetinaNet."""
    return "pool" if "res2" in cfg.MODEL.FPN.IN_FEATURES else "res5"
