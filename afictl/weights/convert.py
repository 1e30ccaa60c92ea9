"""Any supported checkpoint -> one safetensors file of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from afictl.discriminator import PatchDiscriminator
from afictl.errors import UserError
from afictl.meta_device import building_on_meta_device
from afictl.presets import parse_preset
from afictl.tensor_files import save_tensors
from afictl.weights.backbone_file import as_backbone
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.classes import Classes, read_classes
from afictl.weights.content import held
from afictl.weights.description import DETECTOR, DISCRIMINATOR, INTERPOLATORS
from afictl.weights.detector_file import described_preset, detector_of, save_detector
from afictl.weights.interpolator_file import interpolator_of
from afictl.weights.layouts import to_ours
from afictl.weights.layouts.detectron2 import in_rgb
from afictl.weights.loading import LoadReport, compare_tensors, load_tensors

_SHOWN = 3


def convert(
    source: Path,
    target: Path,
    *,
    classes: str | None = None,
    settings: Sequence[str] = (),
    partial: bool = False,
    rgb: bool = False,
) -> list[str]:
    """Write what ``source`` holds to ``target`` as afictl's own kind of file.

    Args:
        source: any supported checkpoint or run folder: a detector, an AF interpolator, a discriminator or a
            backbone.
        target: file to write, ``.safetensors``; replaced at once when it is whole.
        classes: of a detector, as ``read_classes`` takes them.
        settings: preset keys of a detector that its tensors cannot tell, such as ``backbone.stride_in_1x1=false``.
        partial: take of a detector what fits.
        rgb: a detector of detectron2 was trained on RGB images divided by ImageNet's standard deviation.

    Returns:
        What was recognised and how it fitted, line by line.

    Raises:
        UserError: the source is not readable or not known, it does not fit, or the target cannot be written there.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"{target}: the converted file is a safetensors file; end its name in .safetensors")
    named = read_classes(classes) if classes is not None else None
    checkpoint = read_checkpoint(source)
    if target.exists() and target.samefile(checkpoint.path):
        raise UserError(f"{target}: is the checkpoint to convert; write to another file")
    checkpoint = to_ours(in_rgb(checkpoint) if rgb else checkpoint)
    kind = checkpoint.metadata.get("format")
    if kind == DETECTOR:
        return _convert_detector(_adjusted(checkpoint, named, settings), target, partial)
    if named or settings or partial:
        raise UserError(f"{checkpoint.path}: --classes, --set and --partial are for detectors; this holds no detector")
    if kind in INTERPOLATORS:
        module: nn.Module = interpolator_of(checkpoint)
        return _write_network(module, compare_tensors(module, checkpoint.tensors), checkpoint, target)
    if kind == DISCRIMINATOR:
        return _convert_discriminator(checkpoint, target)
    return _convert_backbone(checkpoint, target)


def _adjusted(checkpoint: Checkpoint, classes: Classes | None, settings: Sequence[str]) -> Checkpoint:
    """The checkpoint with the preset keys and classes that the user gave."""
    metadata = dict(checkpoint.metadata)
    if settings:
        before = described_preset(checkpoint)
        preset = parse_preset(before.model_dump(mode="json"), settings, source=str(checkpoint.path))
        if "origin" in metadata and preset.input.std != before.input.std:
            raise UserError("--set input.std: the first convolution is made for the preset's; see --rgb")
        metadata["preset"] = preset.model_dump(mode="json")
    if classes:
        names, ids = classes
        count = len(metadata.get("classes") or ())
        if len(names) != count:
            raise UserError(f"--classes: {len(names)} names, but the detector has {count} classes")
        metadata |= {"classes": names, "category_ids": ids}
    return replace(checkpoint, metadata=metadata)


def _convert_detector(checkpoint: Checkpoint, target: Path, partial: bool) -> list[str]:
    loaded = detector_of(checkpoint, partial=partial)
    save_detector(target, loaded.detector, checkpoint.metadata)
    preset, names = loaded.preset, loaded.classes
    some = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return [
        _recognised(checkpoint, "a detector of afictl"),
        f"preset: {preset.name}, interpolator {preset.interpolator.kind}, {len(names)} classes ({some})",
        _counts(loaded.report),
        *_notes(checkpoint),
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
    save_tensors(target, module.state_dict(), checkpoint.metadata)
    return [_recognised(checkpoint, held(checkpoint)), _counts(report), f"written: {target}"]


def _convert_backbone(checkpoint: Checkpoint, target: Path) -> list[str]:
    found = as_backbone(checkpoint)
    if found is None:
        raise UserError(f"{checkpoint.path}: holds {held(checkpoint)}; nothing that can be converted")
    backbone, report = found
    save_tensors(target, backbone.tensors, backbone.metadata)
    strides = ", with strides in the 1x1 convolutions" if backbone.metadata["stride_in_1x1"] else ""
    return [f"recognised: {backbone.metadata['network']}{strides}", _counts(report), f"written: {target}"]


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.metadata.get("config")
    if not isinstance(config, dict):
        raise UserError(f"{checkpoint.path}: its description lacks the configuration; make the file again")
    return config


def _recognised(checkpoint: Checkpoint, usual: str) -> str:
    return f"recognised: {_origin(checkpoint).get('layout', usual)}"


def _notes(checkpoint: Checkpoint) -> list[str]:
    return [str(note) for note in _origin(checkpoint).get("notes", ())]


def _origin(checkpoint: Checkpoint) -> dict[str, Any]:
    origin = checkpoint.metadata.get("origin")
    return origin if isinstance(origin, dict) else {}


def _counts(report: LoadReport) -> str:
    counts = (f"{len(getattr(report, kind))} {kind}" for kind in ("matched", "missing", "unexpected", "mismatched"))
    left = [*report.missing, *report.unexpected, *report.mismatched]
    return f"tensors: {', '.join(counts)}" + (f" (first: {', '.join(left[:_SHOWN])})" if left else "")
