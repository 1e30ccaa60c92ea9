"""The preset of a detectron2 checkpoint: a shipped preset with the settings that its tensors show."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping

from torch import Tensor

from afictl.presets import Preset, Published, list_presets, load_preset
from afictl.weights.layouts.detectron2_backbone import BackboneDescription, count_indices
from afictl.weights.layouts.pixels import Pixels, preset_mean

PresetSettings = dict[str, object]
_GENERATOR = "backbone.srf_module.Generators.0."
_MASK_HEAD = "roi_heads.mask_head."
_FAMILIES = {"cascade-mask-rcnn": "cascade-rcnn"}


def derive_preset(tensors: Mapping[str, Tensor], backbone: BackboneDescription, pixels: Pixels) -> tuple[Preset, int]:
    """The preset and the number of classes of a detector with these ``tensors`` (detectron2's names)."""
    kind = _kind(tensors)
    neck = _neck(tensors)
    head, classes = _dense(tensors) if kind in ("retinanet", "fcos") else _regions(tensors)
    base, name = _base(_FAMILIES.get(kind, kind), backbone.short, str(neck["neck.kind"]))
    shipped = load_preset(base)
    settings = {
        "detector.kind": kind,
        "backbone.name": backbone.name,
        "backbone.options": backbone.options,
        "backbone.stride_in_1x1": backbone.stride_in_1x1,
        "backbone.norm": "batch" if backbone.batch_norm else "frozen-batch",
        "input.mean": preset_mean(pixels, shipped.input.mean),
        **neck,
        **_interpolator(tensors),
        **head,
        **(_anchors(tensors) if kind != "fcos" else {}),
    }
    preset = load_preset(base, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    if name != base:
        about = {"description": f"Imported; the recipe is that of {base}.", "published": Published()}
        preset = preset.model_copy(update={"name": name, **about})
    return preset, classes


def _base(family: str, backbone: str, neck: str) -> tuple[str, str]:
    """The nearest shipped preset, and the name of this combination."""
    name = f"{family}-{backbone}-{neck}"
    shipped = list_presets()
    candidates = (name, f"{family}-{backbone}-fpn", f"{family}-r50-{neck}", f"{family}-r50-fpn")
    return next(candidate for candidate in candidates if candidate in shipped), name


def _kind(tensors: Mapping[str, Tensor]) -> str:
    if "head.cls_score.weight" in tensors:
        return "fcos" if "head.ctrness.weight" in tensors else "retinanet"
    masks = any(name.startswith(_MASK_HEAD) for name in tensors)
    if any(name.startswith("roi_heads.box_predictor.0.") for name in tensors):
        return "cascade-mask-rcnn" if masks else "cascade-rcnn"
    return "mask-rcnn" if masks else "faster-rcnn"


def _neck(tensors: Mapping[str, Tensor]) -> PresetSettings:
    if any(name.startswith("backbone.before_bifpn.") for name in tensors):
        width = _rows(tensors, "backbone.before_bifpn.lateral5.0.weight", 256)
        published = {"neck.fusion": "raw", "neck.skips": "input", "neck.blocks": "separable"}
        repeats = count_indices(tensors, r"backbone\.BiFPNLayer_(\d+)_") or 1
        return {"neck.kind": "bifpn", "neck.channels": width, "neck.repeats": repeats, **published}
    is_pafpn = any(name.startswith("backbone.pafpn_output") for name in tensors)
    width = _rows(tensors, "backbone.fpn_lateral5.weight", 256)
    return {
        "neck.kind": "pafpn" if is_pafpn else "fpn",
        "neck.channels": width,
        "neck.norm": "batch" if "backbone.fpn_lateral5.norm.weight" in tensors else "none",
        "neck.top": _top(tensors, width),
    }


def _top(tensors: Mapping[str, Tensor], width: int) -> str:
    p6 = tensors.get("backbone.top_block.p6.weight")
    if p6 is None or p6.ndim != 4:
        return "pool"
    return "p5" if p6.shape[1] == width else "res5"


def _interpolator(tensors: Mapping[str, Tensor]) -> PresetSettings:
    options = generator_options(tensors, _GENERATOR)
    kind: PresetSettings = {"interpolator.kind": "afi" if options else "nearest"}
    return {**kind, "interpolator.options": options} if options else kind


def generator_options(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    """``blocks`` and ``growth`` of the AFI-GAN generator under ``prefix``; empty if there is none."""
    if f"{prefix}0.0.weight" not in tensors:
        return {}
    blocks = count_indices(tensors, rf"{re.escape(prefix)}1\.RDBs\.(\d+)\.")
    return {"blocks": max(blocks, 1), "growth": _rows(tensors, f"{prefix}1.RDBs.0.conv1.0.weight", 32)}


def _regions(tensors: Mapping[str, Tensor]) -> tuple[PresetSettings, int]:
    """Preset keys of the heads of an R-CNN, and its number of classes."""
    stage = "0." if "roi_heads.box_head.0.fc1.weight" in tensors else ""
    box, predictor = f"roi_heads.box_head.{stage}", f"roi_heads.box_predictor.{stage}"
    norms = (f"{box}conv1.norm.weight", f"{_MASK_HEAD}mask_fcn1.norm.weight")
    head: PresetSettings = {
        "detector.box_head": "4conv1fc" if f"{box}conv1.weight" in tensors else "2fc",
        "detector.head_norm": "batch" if any(name in tensors for name in norms) else "none",
        "detector.fc_width": _rows(tensors, f"{box}fc1.weight", 1024),
    }
    if any(name.startswith(_MASK_HEAD) for name in tensors):
        head["detector.mask_width"] = _rows(tensors, f"{_MASK_HEAD}mask_fcn1.weight", 256)
    return head, _rows(tensors, f"{predictor}cls_score.weight", 81) - 1


def _dense(tensors: Mapping[str, Tensor]) -> tuple[PresetSettings, int]:
    """Preset keys of a one-stage head, and its number of classes."""
    rows = _rows(tensors, "head.cls_score.weight", 0)
    if "head.ctrness.weight" in tensors:
        return {"detector.level_scales": False}, rows
    anchors = max(_rows(tensors, "head.bbox_pred.weight", 36) // 4, 1)
    return {"detector.anchors_per_octave": max(anchors // 3, 1)}, rows // anchors


def _anchors(tensors: Mapping[str, Tensor]) -> PresetSettings:
    """Sizes and ratios of the anchors in the file."""
    cells = stored_anchors(tensors)
    if len(cells) != 5:
        return {}
    sizes = [anchor_sides(cell)[0][0] for cell in cells]
    return {"detector.anchor_sizes": sizes, "detector.anchor_ratios": anchor_sides(cells[0])[1]}


def stored_anchors(tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Anchors of each level, (A, 4) xyxy in pixels around 0; empty for files of newer versions of detectron2."""
    for prefix in ("proposal_generator.anchor_generator.cell_anchors.", "anchor_generator.cell_anchors."):
        names = itertools.takewhile(tensors.__contains__, (f"{prefix}{level}" for level in itertools.count()))
        cells = tuple(tensors[name] for name in names)
        if cells and all(map(_are_boxes, cells)):
            return cells
    return ()


def _are_boxes(cell: Tensor) -> bool:
    return cell.ndim == 2 and cell.shape[1] == 4 and len(cell) > 0 and bool((cell[:, 2:] > cell[:, :2]).all())


def anchor_sides(cell: Tensor) -> tuple[list[float], list[float]]:
    """Sizes, the square roots of areas in pixels, and ratios, height by width, of anchors (A, 4), in their order."""
    sides = (cell[:, 2:] - cell[:, :2]).double()  # width, height
    sizes = [round(size, 2) for size in sides.prod(1).sqrt().tolist()]
    ratios = [round(height / width, 3) for width, height in sides.tolist()]
    return list(dict.fromkeys(sizes)), list(dict.fromkeys(ratios))


def has_anchors(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file contains its anchors."""
    return bool(_anchors(tensors))


def _rows(tensors: Mapping[str, Tensor], name: str, default: int) -> int:
    """The first dimension of a tensor; ``default`` if it is missing, which the load report shows."""
    return tensors[name].shape[0] if name in tensors and tensors[name].ndim else default
