"""detectron2's YAML configurations as presets ``detectron2:NAME``; imported only for those.

Source: detectron2.config, https://detectron2.readthedocs.io/en/latest/modules/config.html. A configuration never runs
code: detectron2 itself reads YAML that may call any Python function.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from afictl.errors import UserError, did_you_mean

INSTALL = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"

try:
    import detectron2
    from detectron2.config import CfgNode, get_cfg
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise UserError(f"presets detectron2:... need detectron2, which is not installed; see {INSTALL}") from None

_ZOO = Path(detectron2.__file__).parent / "model_zoo" / "configs"

_BOTH = {
    "backbone.frozen_stages": "MODEL.BACKBONE.FREEZE_AT",
    "backbone.stride_in_1x1": "MODEL.RESNETS.STRIDE_IN_1X1",
    "neck.channels": "MODEL.FPN.OUT_CHANNELS",
    "neck.fuse": "MODEL.FPN.FUSE_TYPE",
    "detector.max_detections": "TEST.DETECTIONS_PER_IMAGE",
}
_BY_ARCHITECTURE = {
    "GeneralizedRCNN": {
        **_BOTH,
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
        **_BOTH,
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


def add_afictl_config(cfg: CfgNode) -> None:
    """Add the node ``cfg.MODEL.AFICTL``, which the registered backbones read; without it they use these defaults.

    ``INTERPOLATOR``: a kind, see ``afictl.build_interpolator``. ``INTERPOLATOR_FILE``: an AF interpolator that
    ``afictl pretrain`` made, instead; the file is needed whenever the model is built, its weights give way to those
    of ``MODEL.WEIGHTS`` where that holds an interpolator. ``BIFPN``: as ``afictl.presets.NeckConfig`` documents. Width,
    norm and fusion of all pyramids are ``cfg.MODEL.FPN.OUT_CHANNELS``, ``NORM`` and ``FUSE_TYPE``.
    """
    node = cfg.MODEL.AFICTL = CfgNode()
    node.INTERPOLATOR = "afi"
    node.INTERPOLATOR_FILE = ""
    node.BIFPN = CfgNode({"REPEATS": 6, "FUSION": "fast", "SKIPS": "layer", "BLOCKS": "plain"})


def read_config(source: str) -> CfgNode:
    """The whole configuration behind ``detector.source`` of a preset; ``MODEL.WEIGHTS`` is empty.

    Args:
        source: name of a YAML file in detectron2's model zoo, or ``{...}``, YAML of all that differs from detectron2's
            defaults. No other file is opened, whatever a stranger's checkpoint says.

    Raises:
        UserError: no such file, not readable, or a key or value that detectron2 does not know.
    """
    cfg = _defaults()
    if source.startswith("{"):
        try:
            values = yaml.safe_load(source)
        except yaml.YAMLError as error:
            raise UserError(f"detector.source: not readable as YAML: {' '.join(str(error).split()):.200}") from None
        _merge(cfg.merge_from_other_cfg, "detector.source", values)
    else:
        path = _zoo_file(source)
        if path is None:
            raise UserError(f"detector.source: detectron2's model zoo has no {source}{did_you_mean(source, _names())}")
        # The files that detectron2 itself brings may call functions: RetinaNet's computes its anchors.
        with _no_warning_of_that():
            _merge(functools.partial(cfg.merge_from_file, allow_unsafe=True), source, str(path))
    cfg.MODEL.WEIGHTS = ""
    return cfg


def embed(name: str) -> str:
    """The ``detector.source`` of what a user calls ``name``: a file in the model zoo, or a path.

    A file of the user's is read now and kept whole, so that checkpoints do not need it again.

    Raises:
        UserError: as ``read_config``, or a Python file.
    """
    if name.endswith(".py"):
        raise UserError(f"detectron2:{name}: a LazyConfig is a program, which afictl does not run; give a YAML file")
    if _zoo_file(name) is not None:
        return name
    if not Path(name).is_file():
        near = did_you_mean(name, _names())
        raise UserError(f"detectron2:{name}: neither a file nor in detectron2's model zoo{near}")
    cfg = _defaults()
    _merge(functools.partial(cfg.merge_from_file, allow_unsafe=False), name, name)
    cfg.MODEL.WEIGHTS = ""
    return yaml.safe_dump(_difference(cfg, _defaults()), default_flow_style=True, width=2**20).strip()


def preset_values(name: str) -> dict[str, Any]:
    """What the configuration ``name`` says, as values of a preset.

    Not carried over: cropping, gradient clipping, learning-rate factors of biases, and MAX_SIZE_TEST where it is not
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
        "interpolator": {"kind": cfg.MODEL.AFICTL.INTERPOLATOR if _has_own_neck(cfg) else "nearest"},
        "input": _input_values(cfg),
        "train": _recipe_values(cfg),
    }


def model_values(source: str) -> dict[str, dict[str, Any]]:
    """The sections ``backbone``, ``neck`` and ``detector`` of a preset with this ``detector.source``."""
    return _model_values(read_config(source))


def changeable(cfg: CfgNode) -> dict[str, str]:
    """Dotted keys of a preset that change the model -> detectron2's."""
    return _BY_ARCHITECTURE[cfg.MODEL.META_ARCHITECTURE]


def lookup(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted ``key``."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


@contextlib.contextmanager
def _no_warning_of_that() -> Iterator[None]:
    logger = logging.getLogger("fvcore.common.config")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _defaults() -> CfgNode:
    cfg = get_cfg()
    add_afictl_config(cfg)
    return cfg


def _zoo_file(name: str) -> Path | None:
    """A YAML file inside the model zoo; ``..`` and absolute paths lead nowhere."""
    path, root = (_ZOO / name).resolve(), _ZOO.resolve()
    return path if path.is_file() and path.suffix == ".yaml" and path.is_relative_to(root) else None


def _names() -> list[str]:
    return sorted(str(path.relative_to(_ZOO)) for path in _ZOO.glob("*/*.yaml"))


def _merge(merge: Any, where: str, values: Any) -> None:
    """Call ``merge``; it fails in as many ways as a file can be wrong."""
    try:
        merge(CfgNode(values) if isinstance(values, Mapping) else values)
    except yaml.constructor.ConstructorError as error:
        raise UserError(f"{where}: calls Python, which afictl does not run ({error.problem}); write values") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: not a configuration of detectron2 {detectron2.__version__}: {reason:.200}") from None


def _difference(cfg: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            found[key] = _difference(value, base.get(key, {}))
        elif key not in base or base[key] != value:
            found[key] = list(value) if isinstance(value, tuple) else value
    return {key: value for key, value in found.items() if value != {}}


def _model_values(cfg: CfgNode) -> dict[str, dict[str, Any]]:
    model = cfg.MODEL
    if model.META_ARCHITECTURE not in _BY_ARCHITECTURE:
        known = ", ".join(_BY_ARCHITECTURE)
        raise UserError(f"MODEL.META_ARCHITECTURE: afictl takes {known} from detectron2, not {model.META_ARCHITECTURE}")
    for key, wanted in _REQUIRED.items():
        if lookup(cfg, key) != wanted:
            raise UserError(f"{key}: afictl trains detectron2's models with {wanted!r} only, not {lookup(cfg, key)!r}")
    values: dict[str, dict[str, Any]] = {
        "backbone": {"name": _network(cfg), "norm": _NORMS.get(model.RESNETS.NORM, "batch")},
        "neck": {
            "kind": _NECKS.get(model.BACKBONE.NAME, "fpn"),
            "norm": "batch" if model.FPN.NORM in ("BN", "SyncBN") else "none",
            "top": "pool" if "res2" in model.FPN.IN_FEATURES else "res5",
        },
        "detector": {
            "kind": "detectron2",
            "segments": bool(model.MASK_ON) and model.META_ARCHITECTURE == "GeneralizedRCNN",
            "anchor_sizes": anchor_sizes(cfg),
        },
    }
    for ours, theirs in changeable(cfg).items():
        section, key = ours.split(".")
        values[section][key] = lookup(cfg, theirs)
    return values


def anchor_sizes(cfg: CfgNode) -> tuple[float, ...]:
    """The smallest anchor of each of the five levels; a single list serves all levels."""
    smallest = [float(min(sizes)) for sizes in cfg.MODEL.ANCHOR_GENERATOR.SIZES]
    if len(smallest) == 1:
        return tuple(smallest * 5)
    # A pyramid of fewer levels: a preset still has five numbers.
    return tuple((smallest + [smallest[-1] * 2**i for i in range(1, 5)])[:5])


def _network(cfg: CfgNode) -> str:
    """timm's name of the network, or for one that timm lacks detectron2's."""
    net = cfg.MODEL.RESNETS
    plain = (net.NUM_GROUPS, net.WIDTH_PER_GROUP) == (1, 64) and not any(net.DEFORM_ON_PER_STAGE)
    if "resnet" in cfg.MODEL.BACKBONE.NAME and plain and net.NORM.endswith("BN"):
        return f"resnet{net.DEPTH}.tv_in1k"
    return f"{cfg.MODEL.BACKBONE.NAME}-{net.DEPTH}"


def _has_own_neck(cfg: CfgNode) -> bool:
    return cfg.MODEL.BACKBONE.NAME.startswith("build_afictl_")


def _input_values(cfg: CfgNode) -> dict[str, Any]:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = tuple(range(sizes[0], sizes[-1] + 1))
    order = 1 if cfg.INPUT.FORMAT == "RGB" else -1
    return {
        "min_sizes": sizes,
        "max_size": cfg.INPUT.MAX_SIZE_TRAIN,
        "test_size": cfg.INPUT.MIN_SIZE_TEST,
        "flip": 0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0,
        "mean": tuple(value / 255 for value in cfg.MODEL.PIXEL_MEAN[::order]),
        "std": tuple(value / 255 for value in cfg.MODEL.PIXEL_STD[::order]),
    }


def _recipe_values(cfg: CfgNode) -> dict[str, Any]:
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
