"""Put the tensors of a checkpoint into a module and say what fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from afictl.backbones import Backbone
from afictl.detectors import Detector
from afictl.detectors.adapter import AdaptedDetector
from afictl.discriminator import PatchDiscriminator
from afictl.errors import UserError
from afictl.interpolators import AFInterpolator
from afictl.presets import InputConfig
from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.compatibility import require_same_arithmetic
from afictl.weights.content import held
from afictl.weights.description import DISCRIMINATOR, INTERPOLATORS
from afictl.weights.layouts import to_ours, without_wrapper
from afictl.weights.layouts.detectron2 import has_statistics, without_derived
from afictl.weights.layouts.detectron2_names import BOTTOM_UP
from afictl.weights.layouts.msra import find_plain_resnet, to_timm
from afictl.weights.layouts.pixels import fold_pixels

# Batch norm counts its batches and never reads the count (its momentum is set); frozen norms have no counter.
_COUNTER = "num_batches_tracked"
_FOREIGN = "model."


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors that were loaded, and of those that were not."""

    matched: tuple[str, ...]
    """In both, of the same shape: loaded."""
    missing: tuple[str, ...]
    """In the module only: unchanged."""
    unexpected: tuple[str, ...]
    """In the file only: left out."""
    mismatched: tuple[str, ...]
    """In both, of different shapes: unchanged."""

    @property
    def complete(self) -> bool:
        """Every tensor of the module was loaded and none of the file is left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors loaded"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                parts.append(f"{len(names)} {kind} ({shown})")
        return "; ".join(parts)


def load_weights(module: nn.Module, path: str | Path) -> LoadReport:
    """Load from any supported checkpoint what fits ``module`` by name and shape; the rest stays as it is.

    A detector, an AF interpolator and a discriminator also take the checkpoints of other projects (see ``layouts``).

    Raises:
        UserError: the checkpoint cannot be read, or is that of a detector with settings under which the weights
            would compute something else.
    """
    return load_tensors(module, read_weights(module, path).tensors)


def read_weights(module: nn.Module, path: str | Path) -> Checkpoint:
    """A checkpoint in the names of ``module``; see ``load_weights``."""
    checkpoint = read_checkpoint(path)
    if isinstance(module, AdaptedDetector) and module.preset.detector.kind == "detectron2":
        checkpoint = _behind_model(checkpoint, module)
    elif isinstance(module, (Detector, AFInterpolator, PatchDiscriminator)):
        checkpoint = to_ours(checkpoint)
    if isinstance(module, Detector):
        if checkpoint.metadata.get("format") in (*INTERPOLATORS, DISCRIMINATOR):
            raise UserError(f"{checkpoint.path}: holds {held(checkpoint)}, not a detector")
        require_same_arithmetic(module.preset, checkpoint)
    return checkpoint


def _behind_model(checkpoint: Checkpoint, detector: AdaptedDetector) -> Checkpoint:
    """A checkpoint of detectron2 for the model of detectron2 inside a detector of ours."""
    if checkpoint.metadata or any(name.startswith(_FOREIGN) for name in checkpoint.tensors):
        return checkpoint
    tensors = without_wrapper(checkpoint.tensors)
    for name in ("pixel_mean", "pixel_std"):
        wanted, has = tensors.get(name), getattr(detector.model, name).flatten()
        if wanted is not None and not (wanted.numel() == 3 and torch.allclose(wanted.flatten().to(has), has, 1e-4)):
            raise UserError(f"{checkpoint.path}: trained with another {name} than {detector.preset.name} has")
    tensors = without_derived(tensors)
    own = detector.state_dict()
    unsaved = set(detector.unsaved)
    if not has_statistics(tensors):  # they mean what fresh norms hold
        unsaved |= {name for name in own if name.startswith(f"{_FOREIGN}{BOTTOM_UP}") and ".running_" in name}
    given = {f"{_FOREIGN}{name}": value for name, value in tensors.items()}
    return replace(checkpoint, tensors={name: own[name] for name in own if name in unsaved} | given)


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """``load_weights`` for tensors already read, in the module's names."""
    report = compare_tensors(module, tensors)
    module.load_state_dict({name: tensors[name] for name in report.matched}, strict=False)
    return report


def compare_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """What ``load_tensors`` would do; ``module`` may be on the meta device."""
    own = module.state_dict()
    shared = [name for name in own if name in tensors]
    return LoadReport(
        matched=tuple(name for name in shared if own[name].shape == tensors[name].shape),
        missing=tuple(name for name in own if name not in tensors and not name.endswith(_COUNTER)),
        unexpected=tuple(name for name in tensors if name not in own and not name.endswith(_COUNTER)),
        mismatched=tuple(name for name in shared if own[name].shape != tensors[name].shape),
    )


def load_backbone_weights(backbone: Backbone, path: str | Path, view: InputConfig | None = None) -> LoadReport:
    """Load the state dict of timm's classifier of the backbone's name; the classifier itself is left out.

    The same of torchvision (ResNet), Microsoft (Swin) or detectron2 (ResNet, ResNeXt) will do.

    Args:
        backbone: of a detector, or alone.
        path: the file.
        view: how the detector normalises its images (default: as most presets); the first convolution of
            detectron2's is made for it.

    Raises:
        UserError: the file cannot be read, is not one of this network, or strides elsewhere.
    """
    checkpoint = read_checkpoint(path)
    plain, tensors = find_plain_resnet(checkpoint.tensors), checkpoint.tensors
    _require_strides(
        backbone, plain.stride_in_1x1 if plain else checkpoint.metadata.get("stride_in_1x1"), checkpoint.path
    )
    if plain is not None:
        tensors = to_timm(plain.tensors, backbone.name)
        if not isinstance(backbone, Backbone):
            view = None  # in a model of another library it takes timm's weights and makes them fit by itself
        tensors = {
            name: fold_pixels(value, plain.pixels, view or InputConfig()) if name == "conv1.weight" else value
            for name, value in tensors.items()
        }
    report = load_tensors(backbone.net, backbone.plain_to_net(tensors))
    if not report.complete:
        raise UserError(f"{checkpoint.path}: not the weights of a {backbone.name}: {report}")
    return report


def _require_strides(backbone: Backbone, stride_in_1x1: bool | None, path: Path) -> None:
    """A network that strides elsewhere takes the same tensors and computes something else; None is not known."""
    blocks: list[Any] = [
        block for block in backbone.net.modules() if hasattr(block, "conv3") and hasattr(block, "conv1")
    ]
    own = any(tuple(block.conv1.stride) != (1, 1) for block in blocks)
    if blocks and stride_in_1x1 not in (None, own):
        wanted = str(stride_in_1x1).lower()
        where = "1x1" if stride_in_1x1 else "3x3"
        raise UserError(
            f"{path}: a ResNet that strides in its {where} convolutions; add --set backbone.stride_in_1x1={wanted}"
        )
