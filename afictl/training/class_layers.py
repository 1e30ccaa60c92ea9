"""Class layers of initial weights: loaded for the same classes, initialised anew for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from afictl.detectors import Detector, build_detector
from afictl.errors import first_names
from afictl.meta_device import building_on_meta_device
from afictl.weights import Checkpoint, LoadReport, load_tensors
from afictl.weights.layouts import stated_classes


def load_for_classes(
    detector: Detector, tensors: Mapping[str, Tensor], stated: Sequence[str], classes: Sequence[str] | None
) -> LoadReport:
    """Load ``tensors`` into ``detector``, without class layers that are for other classes.

    Args:
        detector: loaded in place.
        tensors: under its names.
        stated: class names of the weights in label order; empty if they are unknown.
        classes: class names of the detector in label order; None: those of the weights.

    Returns:
        The report, in which class layers for other classes are ``mismatched``.
    """
    if not stated or classes is None or tuple(stated) == tuple(classes):
        return load_tensors(detector, tensors)
    layers = _tensors_by_class(detector)
    report = load_tensors(detector, {name: value for name, value in tensors.items() if name not in layers})
    missing = tuple(name for name in report.missing if name not in tensors)
    left_out = tuple(name for name in layers if name in tensors)
    return replace(report, missing=missing, mismatched=(*report.mismatched, *left_out))


def _tensors_by_class(detector: Detector) -> list[str]:
    """Names of the tensors in the class layers whose shapes depend on the number of classes."""
    with building_on_meta_device(detector.preset.name):
        other = build_detector(detector.preset, detector.num_classes + 1).state_dict()
    layers = {name: value for name, value in detector.state_dict().items() if name.startswith(detector.class_layers)}
    return [name for name, value in layers.items() if other[name].shape != value.shape]


def describe_class_layers(
    detector: Detector, report: LoadReport, checkpoint: Checkpoint, classes: Sequence[str] | None
) -> list[str]:
    """Log lines on class layers that were initialised anew, or loaded without knowledge of their classes."""
    stated = stated_classes(checkpoint)
    if new := [name for name in report.mismatched if name.startswith(detector.class_layers)]:
        reason = f", as {_difference(stated, classes, checkpoint.path)}" if stated else ""
        return [f"class layers are initialised anew for {detector.num_classes} classes{reason}: {', '.join(new)}"]
    is_loaded = any(name.startswith(detector.class_layers) for name in report.matched)
    if stated or not classes or not is_loaded or list(classes) == checkpoint.metadata.get("classes"):
        return []
    order = f"its class layers are taken to be for {first_names(classes)}, in this order"
    return [f"note: {checkpoint.path} has no class names: {order}"]


def _difference(stated: Sequence[str], classes: Sequence[str] | None, path: Path) -> str:
    """How the ``classes`` of the data differ from the ``stated`` ones of the weights in ``path``."""
    if classes is None:
        return f"{path} is for {first_names(stated)}"
    added = [name for name in classes if name not in stated]
    removed = [name for name in stated if name not in classes]
    parts = [f"{path} has no {first_names(added)}"] if added else []
    parts += [f"the data have no {first_names(removed)}"] if removed else []
    hint = " (if they are only renamed, annotations with the former names keep these layers)"
    return (" and ".join(parts) or f"{path} has them in another order") + (
        hint if len(added) == len(removed) > 0 else ""
    )
