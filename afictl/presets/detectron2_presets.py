"""detectron2's configurations as presets ``detectron2:NAME``; imported only for those.

The sections ``backbone``, ``neck`` and ``detector`` of such a preset describe the model; those of their keys that
``changeable_keys`` lists also change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afictl.errors import UserError
from afictl.presets.detectron2_configs import CfgNode, embed, read_config

_COMMON_KEYS = {
    "backbone.frozen_stages": "MODEL.BACKBONE.FREEZE_AT",
    "backbone.stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "neck.channels": "MODEL.FPN.OUT_CHANNELS",
    "neck.fuse": "MODEL.FPN.FUSE_TYPE",
    "detector.max_detections": "TEST.DETECTIONS_PER_IMAGE",
}
_CHANGEABLE_KEYS = {
    "GeneralizedRCNN": {
        **_COMMON_KEYS,
        "detector.rpn_batch": "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
        "detector.proposals_before_nms_train": "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
        "detector.proposals_before_nms_test": "MODEL.RPN.PRE_NMS_TOPK_TEST",
        "detector.proposals_train": "MODEL.RPN.POST_NMS_TOPK_TRAIN",
        "detector.proposals_test": "MODEL.RPN.POST_NMS_TOPK_TEST",
        "detector.roi_batch": "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
        "detector.fc_width": "MODEL.ROI_BOX_HEAD.FC_DIM",
        "detector.mask_width": "MODEL.ROI_MASK_HEAD.CONV_DIM",
        "detector.score_threshold": "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "detector.nms_threshold": "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    },
    "RetinaNet": {
        **_COMMON_KEYS,
        "detector.candidates": "MODEL.RETINANET.TOPK_CANDIDATES_TEST",
        "detector.score_threshold": "MODEL.RETINANET.SCORE_THRESH_TEST",
        "detector.nms_threshold": "MODEL.RETINANET.NMS_THRESH_TEST",
    },
}
_REQUIRED = {
    "MODEL.KEYPOINT_ON": False,
    "MODEL.LOAD_PROPOSALS": False,
    "MODEL.PROPOSAL_GENERATOR.NAME": "RPN",
    "MODEL.ANCHOR_GENERATOR.NAME": "DefaultAnchorGenerator",
    "MODEL.AFICTL.INTERPOLATOR_FILE": "",  # --interpolator names it
}
_NORMS = {"FrozenBN": "frozen-batch"}
_NECKS = {"build_afictl_resnet_pafpn_backbone": "pafpn", "build_afictl_resnet_bifpn_backbone": "bifpn"}


def preset_values(name: str) -> dict[str, object]:
    """The configuration ``name`` as values of a preset.

    Not converted: cropping, gradient clipping, learning-rate factors of biases, and MAX_SIZE_TEST where it is not
    that of training.

    Raises:
        UserError: as ``embed``, or a model that is neither an R-CNN nor a RetinaNet.
    """
    source = embed(name)
    cfg = read_config(source)
    values = _model_values(cfg)
    values["detector"]["source"] = source
    return {
        "name": f"detectron2:{name}",
        "description": f"detectron2's {cfg.MODEL.META_ARCHITECTURE} of {Path(name).stem}.",
        **values,
        "interpolator": {"kind": cfg.MODEL.AFICTL.INTERPOLATOR if _has_afictl_neck(cfg) else "nearest"},
        "input": _input_values(cfg),
        "train": _recipe_values(cfg),
    }


def model_values(source: str) -> dict[str, dict[str, object]]:
    """The sections ``backbone``, ``neck`` and ``detector`` of a preset with this ``detector.source``."""
    return _model_values(read_config(source))


def changeable_keys(cfg: CfgNode) -> dict[str, str]:
    """Dotted keys of a preset that change the model -> detectron2's."""
    keys = _CHANGEABLE_KEYS[cfg.MODEL.META_ARCHITECTURE].items()
    return {key: cfg_key for key, cfg_key in keys if (_neck(cfg), key) != ("bifpn", "neck.fuse")}


def lookup(cfg: CfgNode, key: str) -> object:
    """The value under a dotted ``key``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _model_values(cfg: CfgNode) -> dict[str, dict[str, object]]:
    model = cfg.MODEL
    if model.META_ARCHITECTURE not in _CHANGEABLE_KEYS:
        supported_names = ", ".join(_CHANGEABLE_KEYS)
        raise UserError(
            f"MODEL.META_ARCHITECTURE: afictl takes {supported_names} from detectron2, not {model.META_ARCHITECTURE}"
        )
    for key, required in _REQUIRED.items():
        if (value := lookup(cfg, key)) != required:
            raise UserError(f"{key}: afictl trains detectron2's models with {required!r} only, not {value!r}")
    values: dict[str, dict[str, object]] = {
        "backbone": {"name": _network(cfg), "norm": _NORMS.get(model.RESNETS.NORM, "batch")},
        "neck": {"kind": _neck(cfg)},
        "detector": {
            "kind": "detectron2",
            "segments": bool(model.MASK_ON) and model.META_ARCHITECTURE == "GeneralizedRCNN",
            "anchor_sizes": anchor_sizes(cfg),
        },
    }
    if _has_afictl_neck(cfg):
        values["neck"]["interpolators"] = model.AFICTL.INTERPOLATORS
    if _neck(cfg) != "bifpn":
        values["neck"]["top_down_from"] = model.AFICTL.TOP_DOWN_FROM if _has_afictl_neck(cfg) else "p5"
        values["neck"]["norm"] = "batch" if model.FPN.NORM in ("BN", "SyncBN") else "none"
        values["neck"]["top"] = "pool" if "res2" in model.FPN.IN_FEATURES else "res5"
    for dotted, cfg_key in changeable_keys(cfg).items():
        section, key = dotted.split(".")
        values[section][key] = lookup(cfg, cfg_key)
    return values


def anchor_sizes(cfg: CfgNode) -> tuple[float, ...]:
    """The smallest anchor of each of the five levels; a single list serves all levels."""
    smallest = [float(min(sizes)) for sizes in anchor_lists(cfg)]
    if len(smallest) == 1:
        return tuple(smallest * 5)
    # A preset has five sizes, also for a pyramid of fewer levels.
    return tuple((smallest + [smallest[-1] * 2**i for i in range(1, 5)])[:5])


def anchor_lists(cfg: CfgNode) -> list[list[float]]:
    """All anchor sizes of each level, or one list for all levels; detectron2 also accepts the latter unnested.

    Raises:
        UserError: not numbers.
    """
    sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
    lists = [list(level) for level in sizes] if sizes and isinstance(sizes[0], (list, tuple)) else [list(sizes)]
    if not all(level and all(isinstance(size, (int, float)) and size > 0 for size in level) for level in lists):
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR.SIZES: needs positive sizes of anchors for each level, not {sizes!r:.60}"
        )
    return lists


def in_preset_order(cfg: CfgNode, values: Sequence[float]) -> tuple[float, ...]:
    """Statistics of pixels of detectron2, in the network's order and for 0..255, as RGB for 0..1."""
    ordered = values if cfg.INPUT.FORMAT == "RGB" else values[::-1]
    return tuple(value / 255 for value in ordered)


def in_network_order(cfg: CfgNode, values: Sequence[float]) -> list[float]:
    """The inverse of ``in_preset_order``."""
    ordered = values if cfg.INPUT.FORMAT == "RGB" else values[::-1]
    return [255 * value for value in ordered]


def _neck(cfg: CfgNode) -> str:
    """The kind of the pyramid."""
    return _NECKS.get(cfg.MODEL.BACKBONE.NAME, "fpn")


def _network(cfg: CfgNode) -> str:
    """timm's name of the network, or detectron2's for one that timm does not have."""
    net = cfg.MODEL.RESNETS
    plain = (net.NUM_GROUPS, net.WIDTH_PER_GROUP) == (1, 64) and not any(net.DEFORM_ON_PER_STAGE)
    if "resnet" in cfg.MODEL.BACKBONE.NAME and plain and net.NORM.endswith("BN"):
        return f"resnet{net.DEPTH}.tv_in1k"
    return f"{cfg.MODEL.BACKBONE.NAME}-{net.DEPTH}"


def _has_afictl_neck(cfg: CfgNode) -> bool:
    return cfg.MODEL.BACKBONE.NAME.startswith("build_afictl_")


def _input_values(cfg: CfgNode) -> dict[str, object]:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = tuple(range(sizes[0], sizes[-1] + 1))
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise UserError(f"INPUT.FORMAT: detectron2's models take RGB or BGR, not {cfg.INPUT.FORMAT}")
    return {
        "min_sizes": sizes,
        "max_size": cfg.INPUT.MAX_SIZE_TRAIN,
        "test_size": cfg.INPUT.MIN_SIZE_TEST,
        "flip": 0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0,
        "mean": in_preset_order(cfg, cfg.MODEL.PIXEL_MEAN),
        "std": in_preset_order(cfg, cfg.MODEL.PIXEL_STD),
    }


def _recipe_values(cfg: CfgNode) -> dict[str, object]:
    solver = cfg.SOLVER
    return {
        "steps": solver.MAX_ITER,
        "batch_size": solver.IMS_PER_BATCH,
        "lr": solver.BASE_LR,
        "momentum": solver.MOMENTUM,
        "weight_decay": solver.WEIGHT_DECAY,
        "schedule": "cosine" if "Cosine" in solver.LR_SCHEDULER_NAME else "multistep",
        "milestones": tuple(solver.STEPS),
        "warmup_steps": solver.WARMUP_ITERS,
        "eval_every": cfg.TEST.EVAL_PERIOD or 5000,
        "checkpoint_every": solver.CHECKPOINT_PERIOD,
    }
