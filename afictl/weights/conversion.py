"""Conversion of any supported checkpoint to one safetensors file of afictl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from afictl.discriminator import PatchDiscriminator
from afictl.errors import UserError, first_names
from afictl.meta_device import building_on_meta_device
from afictl.presets import parse_preset
from afictl.tensor_files import save_tensors
from afictl.weights.backbone_file import as_backbone
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.classes import Classes, read_classes
from afictl.weights.description import DETECTOR, DISCRIMINATOR, INTERPOLATOR_FORMATS
from afictl.weights.detector_file import described_preset, detector_of, save_detector
from afictl.weights.interpolator_file import interpolator_of
from afictl.weights.layouts import describe_content, stated_classes, to_afictl
from afictl.weights.layouts.detectron2_detectors import in_rgb
from afictl.weights.loading import LoadReport, compare_tensors, load_tensors

_LISTED_NAMES = 3


def convert(
    source: Path,
    target: Path,
    *,
    classes: str | None = None,
    settings: Sequence[str] = (),
    partial: bool = False,
    rgb: bool = False,
    averaged: bool | None = None,
) -> list[str]:
    """Convert the checkpoint ``source`` to a file of afictl.

    Args:
        source: any supported checkpoint or run folder: a detector, an AF interpolator, a discriminator or a
            backbone.
        target: file to write, ``.safetensors``; replaced atomically, a link is followed and stays.
        classes: class names of a detector, in the form of ``read_classes``.
        settings: preset keys of a detector that its tensors do not show, such as ``backbone.stride_in_1x1=false``.
        partial: load the tensors of a detector that fit.
        rgb: a detector of detectron2 was trained on RGB images divided by ImageNet's standard deviation.
        averaged: as in ``read_checkpoint``.

    Returns:
        The recognised kind and the load report, as lines.

    Raises:
        UserError: the source is unreadable or not supported, its tensors do not fit, or the target cannot be written.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the converted file is a safetensors file; end its name in .safetensors")
    given_classes = read_classes(classes) if classes is not None else None
    checkpoint = read_checkpoint(source, averaged)
    if target.exists() and target.samefile(checkpoint.path):
        raise UserError(f"{target}: is the checkpoint to convert; write to another file")
    checkpoint = to_afictl(in_rgb(checkpoint) if rgb else checkpoint)
    kind = checkpoint.metadata.get("format")
    if kind == DETECTOR:
        return _convert_detector(_with_user_settings(checkpoint, given_classes, settings), target, partial)
    if given_classes or settings or partial:
        raise UserError(f"{checkpoint.path}: --classes, --set and --partial are for detectors; this file contains none")
    if kind in INTERPOLATOR_FORMATS:
        module: nn.Module = interpolator_of(checkpoint)
        return _write_network(module, compare_tensors(module, checkpoint.tensors), checkpoint, target)
    if kind == DISCRIMINATOR:
        return _convert_discriminator(checkpoint, target)
    return _convert_backbone(checkpoint, target)


def _with_user_settings(checkpoint: Checkpoint, classes: Classes | None, settings: Sequence[str]) -> Checkpoint:
    """The checkpoint with the user's preset keys and classes in its metadata."""
    metadata = dict(checkpoint.metadata)
    if settings:
        before = described_preset(checkpoint)
        preset = parse_preset(before.model_dump(mode="json"), settings, source=str(checkpoint.path))
        if "origin" in metadata and preset.input.std != before.input.std:
            raise UserError("--set input.std: the first convolution is converted for the preset's value; see --rgb")
        metadata["preset"] = preset.model_dump(mode="json")
    if classes:
        count = len(metadata.get("classes") or ())
        if len(classes.names) != count:
            raise UserError(f"--classes: {len(classes.names)} names, but the detector has {count} classes")
        classes = _in_stated_order(checkpoint, classes)
        metadata |= {"classes": classes.names, "category_ids": classes.category_ids}
    return replace(checkpoint, metadata=metadata)


def _in_stated_order(checkpoint: Checkpoint, classes: Classes) -> Classes:
    """``classes`` in the order of those in the file: label k is the class that the file names.

    Raises:
        UserError: names that contradict those in the file. Those of annotations have no order to contradict.
    """
    stated = stated_classes(checkpoint)
    if not stated or list(stated) == classes.names:
        return classes
    has_same_names = set(stated) == set(classes.names)
    if has_same_names and classes.are_annotations:
        return classes.in_order_of(stated)
    problem = "in another order" if has_same_names else "other names"
    raise UserError(
        f"--classes: {problem} than in {checkpoint.path}, whose classes are"
        f" {', '.join(stated[:20])}{', ...' if len(stated) > 20 else ''}; leave --classes out"
    )


def _convert_detector(checkpoint: Checkpoint, target: Path, partial: bool) -> list[str]:
    loaded = detector_of(checkpoint, partial=partial)
    save_detector(target, loaded.detector, checkpoint.metadata, named_by_user=True)
    preset, names = loaded.preset, loaded.classes
    ids = checkpoint.metadata.get("category_ids") or []
    order = "" if list(ids) == sorted(ids) else "; labels are in the order of the checkpoint, category ids by name"
    return [
        _recognised(checkpoint, "a detector of afictl"),
        f"preset: {preset.name}, interpolator {preset.interpolator.kind}, {len(names)} classes"
        f" ({first_names(names)}{order})",
        _counts(loaded.report),
        *checkpoint.notes,
        *map(str, _origin(checkpoint).get("notes", ())),
        f"written: {target}",
    ]


def _convert_discriminator(checkpoint: Checkpoint, target: Path) -> list[str]:
    config = _config(checkpoint)
    with building_on_meta_device(checkpoint.path):
        report = compare_tensors(PatchDiscriminator(**config), checkpoint.tensors)
    if not report.complete:
        raise UserError(f"{checkpoint.path}: incomplete: {report}")
    module = PatchDiscriminator(**config)
    load_tensors(module, checkpoint.tensors)
    return _write_network(module, report, checkpoint, target)


def _write_network(module: nn.Module, report: LoadReport, checkpoint: Checkpoint, target: Path) -> list[str]:
    save_tensors(target, module.state_dict(), checkpoint.metadata, named_by_user=True)
    return [_recognised(checkpoint, describe_content(checkpoint)), _counts(report), f"written: {target}"]


def _convert_backbone(checkpoint: Checkpoint, target: Path) -> list[str]:
    converted = as_backbone(checkpoint)
    if converted is None:
        raise UserError(f"{checkpoint.path}: contains {describe_content(checkpoint)}, which cannot be converted")
    backbone, report = converted
    save_tensors(target, backbone.tensors, backbone.metadata, named_by_user=True)
    strides = ", with strides in the 1x1 convolutions" if backbone.metadata["stride_in_1x1"] else ""
    return [f"recognised: {backbone.metadata['network']}{strides}", _counts(report), f"written: {target}"]


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.metadata.get("config")
    if not isinstance(config, dict):
        raise UserError(f"{checkpoint.path}: its description lacks the configuration; make the file again")
    return config


def _recognised(checkpoint: Checkpoint, default: str) -> str:
    return f"recognised: {_origin(checkpoint).get('layout', default)}"


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    origin = checkpoint.metadata.get("origin")
    return origin if isinstance(origin, dict) else {}


def _counts(report: LoadReport) -> str:
    counts = (f"{len(getattr(report, kind))} {kind}" for kind in ("matched", "missing", "unexpected", "mismatched"))
    unloaded = [*report.missing, *report.unexpected, *report.mismatched]
    return f"tensors: {', '.join(counts)}" + (f" (first: {', '.join(unloaded[:_LISTED_NAMES])})" if unloaded else "")
