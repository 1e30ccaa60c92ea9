"""Put the tensors of a checkpoint into a module and say what fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from afictl.backbones import Backbone
from afictl.errors import UserError
from afictl.weights.checkpoint import read_checkpoint

# Batch norm counts its batches and never reads the count (its momentum is set); frozen norms have no counter.
_COUNTER = "num_batches_tracked"


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

    Raises:
        UserError: the checkpoint cannot be read.
    """
    return load_tensors(module, read_checkpoint(path).tensors)


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> LoadReport:
    """``load_weights`` for tensors already read."""
    own = module.state_dict()
    shared = [name for name in own if name in tensors]
    matched = tuple(name for name in shared if own[name].shape == tensors[name].shape)
    module.load_state_dict({name: tensors[name] for name in matched}, strict=False)
    return LoadReport(
        matched=matched,
        missing=tuple(name for name in own if name not in tensors and not name.endswith(_COUNTER)),
        unexpected=tuple(name for name in tensors if name not in own and not name.endswith(_COUNTER)),
        mismatched=tuple(name for name in shared if own[name].shape != tensors[name].shape),
    )


def load_backbone_weights(backbone: Backbone, path: str | Path) -> LoadReport:
    """Load the state dict of timm's classifier of the backbone's name; the classifier itself is left out.

    The same of torchvision (ResNet) or Microsoft (Swin) will do.

    Raises:
        UserError: the file cannot be read, or is not one of this network.
    """
    checkpoint = read_checkpoint(path)
    report = load_tensors(backbone.net, backbone.plain_to_net(checkpoint.tensors))
    if not report.complete:
        raise UserError(f"{checkpoint.path}: not the weights of a {backbone.name}: {report}")
    return report
