"""Loading of checkpoint tensors into modules, with a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from afictl.backbones import Backbone, FeatureExtractor
from afictl.backbones.resnet import has_stride_in_1x1
from afictl.detectors import Detector
from afictl.detectors.adapter import AdaptedDetector
from afictl.discriminator import PatchDiscriminator
from afictl.errors import UserError, first_names
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.interpolators.base import described_kind
from afictl.interpolators.per_step import repeat_shared_weights
from afictl.necks import preset_with
from afictl.necks.fpn import FPN, rename_former_keys
from afictl.presets import InputConfig
from afictl.presets.pixel_statistics import Triple, network_statistics
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.compatibility import (
    Difference,
    anchor_differences,
    checkpoint_differences,
    other_arithmetic,
    pixel_differences,
    require_same_arithmetic,
)
from afictl.weights.description import BACKBONE, DISCRIMINATOR, INTERPOLATOR_FORMATS
from afictl.weights.layouts import describe_content, to_afictl
from afictl.weights.layouts.classifiers import is_classifier
from afictl.weights.layouts.detectron2_detectors import has_statistics, without_derived
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.detectron2_preset import stored_anchors
from afictl.weights.layouts.efficientnet import efficientnet_to_timm
from afictl.weights.layouts.msra import PlainResNet, find_plain_resnet, to_timm
from afictl.weights.layouts.pixels import fold_pixels, preset_mean
from afictl.weights.stored_classes import names_of_count
from afictl.weights.wrappers import fitting_variant, unwrapped_variants

# Batch norm never reads this counter, as its momentum is set; frozen norms have none.
_COUNTER = "num_batches_tracked"
_MODEL_PREFIX = "model."


@dataclass(frozen=True)
class LoadReport:
    """Names of the loaded tensors, and of the tensors that were not loaded."""

    matched: tuple[str, ...]
    """In module and file with the same shape: loaded."""
    missing: tuple[str, ...]
    """In the module only: unchanged in the module."""
    unexpected: tuple[str, ...]
    """In the file only: ignored."""
    mismatched: tuple[str, ...]
    """In both with different shapes, or class layers for other classes: unchanged in the module."""
    differences: tuple[Difference, ...] = ()
    """Settings that the weights were trained with and the module does not have, under which they compute something
    else: other anchors, another normalisation of pixels, another interpolator."""
    notes: tuple[str, ...] = ()
    """Which weights of the file they are, if it has averaged and trained ones."""

    @property
    def complete(self) -> bool:
        """Whether the module computes what the weights were trained for.

        Every tensor of the module was loaded, every tensor of the file used, and no setting is known to differ.
        """
        return not (self.missing or self.unexpected or self.mismatched or self.differences)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                parts.append(f"{len(names)} {kind} ({first_names(names)})")
        if self.differences:
            parts.append(f"trained with {', '.join(map(str, self.differences))}")
        return "; ".join((*parts, *self.notes))


def load_weights(module: nn.Module, path: str | Path, *, averaged: bool | None = None) -> LoadReport:
    """Load the tensors of any supported checkpoint that fit ``module`` by name and shape.

    Detectors, interpolators and discriminators also accept checkpoints of other projects (see ``layouts``).

    Args:
        module: loaded in place.
        path: file or run folder.
        averaged: as in ``read_checkpoint``.

    Returns:
        The report, in which ``differences`` are settings that the module does not share with the file's detector or
        interpolator.

    Raises:
        UserError: the checkpoint cannot be read, or belongs to a detector with another arithmetic (position of strides,
            normalisation of pixels, fusion in the neck), under which the same weights compute something else.
    """
    checkpoint = read_weights(module, path, averaged)
    report = load_tensors(module, checkpoint.tensors)
    return replace(report, differences=differences_of(module, checkpoint), notes=checkpoint.notes)


def read_weights(module: nn.Module, path: str | Path, averaged: bool | None = None) -> Checkpoint:
    """A checkpoint under the tensor names of ``module``; see ``load_weights``."""
    checkpoint = read_checkpoint(path, averaged)
    if isinstance(module, AdaptedDetector) and module.preset.detector.kind == "detectron2":
        checkpoint = _for_detectron2_model(checkpoint, module)
    elif isinstance(module, (Detector, Interpolator, PatchDiscriminator)):
        checkpoint = to_afictl(checkpoint)
    if not checkpoint.metadata:
        checkpoint = replace(checkpoint, tensors=fitting_variant(checkpoint.tensors, module.state_dict()))
    if isinstance(module, Detector):
        is_other = checkpoint.metadata.get("format") in (*INTERPOLATOR_FORMATS, DISCRIMINATOR, BACKBONE)
        if is_other or (not checkpoint.metadata and is_classifier(checkpoint.tensors)):
            raise UserError(f"{checkpoint.path}: contains {describe_content(checkpoint)}, not a detector")
        if not checkpoint.metadata:
            names = names_of_count(checkpoint.class_names, module.num_classes)
            checkpoint = replace(checkpoint, class_names=(names,) if names else ())
        require_same_arithmetic(module.preset, checkpoint)
    return checkpoint


def differences_of(module: nn.Module, checkpoint: Checkpoint) -> tuple[Difference, ...]:
    """Settings in the description of a checkpoint that ``module`` does not have."""
    if isinstance(module, Detector):
        differences = checkpoint_differences(preset_with(module.preset, module.neck.interpolator), checkpoint)
        if isinstance(module, AdaptedDetector) and checkpoint.anchors:
            differences += anchor_differences(checkpoint.anchors, _cell_anchors(module))
        return differences
    metadata = checkpoint.metadata
    if not isinstance(module, Interpolator) or metadata.get("format") not in INTERPOLATOR_FORMATS:
        return ()
    config = metadata.get("config")
    trained = {"kind": described_kind(metadata, checkpoint.path), **(config if isinstance(config, dict) else {})}
    present = {"kind": module.kind, **module.config}
    return tuple(Difference(key, value) for key, value in trained.items() if present.get(key, value) != value)


def _for_detectron2_model(checkpoint: Checkpoint, detector: AdaptedDetector) -> Checkpoint:
    """A detectron2 checkpoint under the tensor names of an adapted detectron2 model."""
    state = detector.state_dict()
    own_names = fitting_variant(checkpoint.tensors, state)
    if checkpoint.metadata or not state.keys().isdisjoint(own_names):
        return replace(checkpoint, tensors=own_names)
    names = [name.removeprefix(_MODEL_PREFIX) for name in state]
    tensors = fitting_variant(checkpoint.tensors, names)
    _require_same_pixels(checkpoint, tensors, detector)
    anchors = stored_anchors(tensors)
    tensors = without_derived(tensors)
    unsaved = set(detector.unsaved)
    if not has_statistics(tensors):  # absent statistics equal those of fresh norms
        unsaved |= {name for name in state if name.startswith(f"{_MODEL_PREFIX}{BOTTOM_UP}") and ".running_" in name}
    model_tensors = {f"{_MODEL_PREFIX}{name}": value for name, value in tensors.items()}
    tensors = {name: state[name] for name in state if name in unsaved} | model_tensors
    return replace(checkpoint, tensors=tensors, anchors=anchors)


def _require_same_pixels(checkpoint: Checkpoint, tensors: Mapping[str, Tensor], detector: AdaptedDetector) -> None:
    """Check the normalisation in a detectron2 checkpoint, which only some versions saved, against the detector's.

    Raises:
        UserError: it differs; the message names the key to set.
    """
    for key in ("mean", "std"):
        statistic, expected = tensors.get(f"pixel_{key}"), getattr(detector.model, f"pixel_{key}").flatten()
        if statistic is None:
            continue
        if statistic.numel() != 3:
            raise UserError(f"{checkpoint.path}: pixel_{key} has {statistic.numel()} values instead of 3")
        if not torch.allclose(statistic.flatten().to(expected), expected, 1e-4):
            values = statistic.flatten().tolist()[:: 1 if detector.model.input_format == "RGB" else -1]
            trained = Difference(f"input.{key}", tuple(round(value / 255, 8) for value in values))
            raise other_arithmetic(detector.preset, checkpoint, [trained])


def _cell_anchors(detector: AdaptedDetector) -> tuple[Tensor, ...]:
    """Anchors of cell (0, 0) of each level of a detectron2 model, (A, 4)."""
    cells = (getattr(part, "cell_anchors", None) for part in detector.model.modules())
    return tuple(next(filter(None, cells), ()))


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """``load_weights`` for tensors under the names of the module."""
    tensors = _current_names(module, tensors)
    report = compare_tensors(module, tensors)
    module.load_state_dict({name: tensors[name] for name in report.matched}, strict=False)
    return report


def _current_names(module: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``tensors`` under the names of the parts of ``module``, if they are of an earlier version or of a neck whose
    enlargements share the interpolator."""
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(part, FPN):
            tensors = rename_former_keys(tensors, prefix)
        if isinstance(part, PerStepInterpolator):
            tensors = repeat_shared_weights(tensors, part, prefix)
    return tensors


def compare_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """The report of ``load_tensors`` without loading; ``module`` may be on the meta device."""
    state, tensors = module.state_dict(), _current_names(module, tensors)
    shared = [name for name in state if name in tensors]
    return LoadReport(
        matched=tuple(name for name in shared if state[name].shape == tensors[name].shape),
        missing=tuple(name for name in state if name not in tensors and not name.endswith(_COUNTER)),
        unexpected=tuple(name for name in tensors if name not in state and not name.endswith(_COUNTER)),
        mismatched=tuple(name for name in shared if state[name].shape != tensors[name].shape),
    )


def load_backbone_weights(
    backbone: FeatureExtractor,
    path: str | Path,
    config: InputConfig | None = None,
    *,
    averaged: bool | None = None,
) -> LoadReport:
    """Load ImageNet weights into a backbone; the classifier is ignored.

    Supported are state dicts of timm and of the projects whose files timm reads, torchvision (ResNet), Microsoft
    (Swin), detectron2 (ResNet, ResNeXt) and efficientnet-pytorch (EfficientNet, EfficientNet-Lite).

    Args:
        backbone: of a detector, or alone.
        path: the file.
        config: normalisation of the detector's images (default: that of presets with this network), for which the first
            convolution of detectron2's weights is converted.
        averaged: as in ``read_checkpoint``.

    Returns:
        The report, in which ``differences`` are the mean and deviation of pixels that the weights were trained with, if
        ``config`` has others.

    Raises:
        UserError: the file cannot be read, or belongs to another network or one with the stride in another convolution.
    """
    checkpoint = read_checkpoint(path, averaged)
    config = config or InputConfig.model_validate(network_statistics(backbone.name))
    plain = next(filter(None, map(find_plain_resnet, unwrapped_variants(checkpoint.tensors, backbone=True))), None)
    _require_strides(
        backbone, plain.stride_in_1x1 if plain else checkpoint.metadata.get("stride_in_1x1"), checkpoint.path
    )
    if plain is not None:
        tensors, trained = _converted_resnet(backbone, plain, config)
    else:
        tensors = _fitting_classifier(backbone, checkpoint.tensors)
        is_described = checkpoint.metadata.get("format") == BACKBONE
        trained = network_statistics(checkpoint.metadata.get("network") if is_described else backbone.name)
    report = load_tensors(backbone.net, backbone.convert_classifier(tensors))
    if not report.complete:
        raise UserError(f"{checkpoint.path}: not weights of {backbone.name}: {report}")
    return replace(report, differences=pixel_differences(backbone, config, trained), notes=checkpoint.notes)


def _converted_resnet(
    backbone: FeatureExtractor, plain: PlainResNet, config: InputConfig
) -> tuple[dict[str, Tensor], dict[str, Triple]]:
    """A ResNet of detectron2 under timm's names, for RGB images with a deviation that the backbone takes, and the mean
    and deviation of its pixels after this conversion."""
    tensors = to_timm(plain.tensors, backbone.name)
    imagenet = InputConfig()
    # The backbone of another library's model takes weights for ImageNet's deviation.
    target = config if isinstance(backbone, Backbone) else imagenet
    if "conv1.weight" in tensors:
        tensors["conv1.weight"] = fold_pixels(tensors["conv1.weight"], plain.pixels, target)
    return tensors, {"mean": preset_mean(plain.pixels, imagenet.mean), "std": target.std}


def _fitting_classifier(backbone: FeatureExtractor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The variant of a classifier's names, with and without wrappers, from which most tensors of the backbone come."""
    names = backbone.net.state_dict().keys()
    variants = [
        efficientnet_to_timm(variant, names) or variant for variant in unwrapped_variants(tensors, backbone=True)
    ]
    return max(variants, key=lambda variant: len(names & backbone.convert_classifier(variant).keys()))


def _require_strides(backbone: FeatureExtractor, stride_in_1x1: bool | None, path: Path) -> None:
    """Refuse weights of a network with the stride in another convolution, whose shapes are equal. None: unknown."""
    expected = has_stride_in_1x1(backbone.net)
    if None not in (stride_in_1x1, expected) and stride_in_1x1 != expected:
        where = "1x1" if stride_in_1x1 else "3x3"
        raise UserError(
            f"{path}: a ResNet with the stride in its {where} convolutions; "
            f"add --set backbone.stride_in_1x1={str(stride_in_1x1).lower()}"
        )
