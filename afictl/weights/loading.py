"""Loading of checkpoint tensors into modules, with a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from afictl.backbones import Backbone, FeatureExtractor
from afictl.backbones.resnet import has_stride_in_1x1
from afictl.detectors import Detector
from afictl.detectors.adapter import AdaptedDetector
from afictl.discriminator import PatchDiscriminator
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator
from afictl.necks.fpn import FPN, rename_former_keys
from afictl.presets import InputConfig
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.compatibility import require_same_arithmetic
from afictl.weights.description import DISCRIMINATOR, INTERPOLATOR_FORMATS
from afictl.weights.layouts import describe_content, to_afictl, without_wrapper
from afictl.weights.layouts.detectron2_detectors import has_statistics, without_derived
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.msra import find_plain_resnet, to_timm
from afictl.weights.layouts.pixels import fold_pixels

# Batch norm never reads this counter, as its momentum is set; frozen norms have none.
_COUNTER = "num_batches_tracked"
_MODEL_PREFIX = "model."


def first_names(names: Sequence[str]) -> str:
    """The first three names, and an ellipsis if there are more."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


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
    """In both with different shapes: unchanged in the module."""

    @property
    def complete(self) -> bool:
        """Whether every tensor of the module was loaded and every tensor of the file used."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                parts.append(f"{len(names)} {kind} ({first_names(names)})")
        return "; ".join(parts)


def load_weights(module: nn.Module, path: str | Path) -> LoadReport:
    """Load the tensors of any supported checkpoint that fit ``module`` by name and shape.

    Detectors, AF interpolators and discriminators also accept checkpoints of other projects (see ``layouts``).

    Raises:
        UserError: the checkpoint cannot be read, or belongs to a detector with settings under which the same weights
            compute something else.
    """
    return load_tensors(module, read_weights(module, path).tensors)


def read_weights(module: nn.Module, path: str | Path) -> Checkpoint:
    """A checkpoint under the tensor names of ``module``; see ``load_weights``."""
    checkpoint = read_checkpoint(path)
    if isinstance(module, AdaptedDetector) and module.preset.detector.kind == "detectron2":
        checkpoint = _for_detectron2_model(checkpoint, module)
    elif isinstance(module, (Detector, AFInterpolator, PatchDiscriminator)):
        checkpoint = to_afictl(checkpoint)
    if isinstance(module, Detector):
        if checkpoint.metadata.get("format") in (*INTERPOLATOR_FORMATS, DISCRIMINATOR):
            raise UserError(f"{checkpoint.path}: contains {describe_content(checkpoint)}, not a detector")
        require_same_arithmetic(module.preset, checkpoint)
    return checkpoint


def _for_detectron2_model(checkpoint: Checkpoint, detector: AdaptedDetector) -> Checkpoint:
    """A detectron2 checkpoint under the tensor names of an adapted detectron2 model."""
    if checkpoint.metadata or any(name.startswith(_MODEL_PREFIX) for name in checkpoint.tensors):
        return checkpoint
    tensors = without_wrapper(checkpoint.tensors)
    for name in ("pixel_mean", "pixel_std"):
        statistic, expected = tensors.get(name), getattr(detector.model, name).flatten()
        if statistic is not None and not (
            statistic.numel() == 3 and torch.allclose(statistic.flatten().to(expected), expected, 1e-4)
        ):
            raise UserError(f"{checkpoint.path}: trained with another {name} than {detector.preset.name} has")
    tensors = without_derived(tensors)
    state = detector.state_dict()
    unsaved = set(detector.unsaved)
    if not has_statistics(tensors):  # absent statistics equal those of fresh norms
        unsaved |= {name for name in state if name.startswith(f"{_MODEL_PREFIX}{BOTTOM_UP}") and ".running_" in name}
    model_tensors = {f"{_MODEL_PREFIX}{name}": value for name, value in tensors.items()}
    return replace(checkpoint, tensors={name: state[name] for name in state if name in unsaved} | model_tensors)


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """``load_weights`` for tensors under the names of the module."""
    tensors = _current_names(module, tensors)
    report = compare_tensors(module, tensors)
    module.load_state_dict({name: tensors[name] for name in report.matched}, strict=False)
    return report


def _current_names(module: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``tensors`` of an earlier version under today's names of the parts of ``module``."""
    for name, part in module.named_modules():
        if isinstance(part, FPN):
            tensors = rename_former_keys(tensors, f"{name}." if name else "")
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
    backbone: FeatureExtractor, path: str | Path, config: InputConfig | None = None
) -> LoadReport:
    """Load ImageNet weights into a backbone; the classifier is ignored.

    Supported are state dicts of timm, torchvision (ResNet), Microsoft (Swin) and detectron2 (ResNet, ResNeXt).

    Args:
        backbone: of a detector, or alone.
        path: the file.
        config: normalisation of the detector's images (default: that of most presets), for which the first convolution
            of detectron2's weights is converted.

    Raises:
        UserError: the file cannot be read, or belongs to another network or one with the stride in another convolution.
    """
    checkpoint = read_checkpoint(path)
    plain, tensors = find_plain_resnet(checkpoint.tensors), checkpoint.tensors
    _require_strides(
        backbone, plain.stride_in_1x1 if plain else checkpoint.metadata.get("stride_in_1x1"), checkpoint.path
    )
    if plain is not None:
        tensors = to_timm(plain.tensors, backbone.name)
        if not isinstance(backbone, Backbone):
            config = None  # a model of another library converts timm's weights itself
        if "conv1.weight" in tensors:
            tensors["conv1.weight"] = fold_pixels(tensors["conv1.weight"], plain.pixels, config or InputConfig())
    report = load_tensors(backbone.net, backbone.convert_classifier(tensors))
    if not report.complete:
        raise UserError(f"{checkpoint.path}: not the weights of a {backbone.name}: {report}")
    return report


def _require_strides(backbone: FeatureExtractor, stride_in_1x1: bool | None, path: Path) -> None:
    """Refuse weights of a network with the stride in another convolution, whose shapes are equal. None: unknown."""
    expected = has_stride_in_1x1(backbone.net)
    if None not in (stride_in_1x1, expected) and stride_in_1x1 != expected:
        where = "1x1" if stride_in_1x1 else "3x3"
        raise UserError(
            f"{path}: a ResNet with the stride in its {where} convolutions; "
            f"add --set backbone.stride_in_1x1={str(stride_in_1x1).lower()}"
        )
