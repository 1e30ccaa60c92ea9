"""Checkpoints of other projects, recognised by their tensor names and converted to afictl's.

A layout is a function ``translate_NAME(checkpoint) -> Checkpoint | None``: None for tensors of another layout, else the
same weights under afictl's tensor names, with the description of an afictl file. What wrappers of the module add to the
names is removed before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from afictl.errors import first_names
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.classes import are_assumed
from afictl.weights.description import BACKBONE, DETECTOR, DISCRIMINATOR, INTERPOLATOR_FORMATS
from afictl.weights.layouts.afigan import translate_discriminator, translate_generator
from afictl.weights.layouts.classifiers import is_classifier
from afictl.weights.layouts.detectron2_detectors import translate_detectron2
from afictl.weights.layouts.mmdetection import translate_mmdetection
from afictl.weights.layouts.torchvision import translate_torchvision
from afictl.weights.layouts.transformers import translate_transformers
from afictl.weights.stored_classes import ClassNames, names_of_count
from afictl.weights.wrappers import unwrapped_variants

LAYOUTS: tuple[Callable[[Checkpoint], Checkpoint | None], ...] = (
    translate_detectron2,
    translate_torchvision,
    translate_transformers,
    translate_mmdetection,
    translate_generator,
    translate_discriminator,
)
"""All layouts; the first that recognises a checkpoint translates it."""

_TITLES = {
    DETECTOR: "a detector",
    **dict.fromkeys(INTERPOLATOR_FORMATS, "an interpolator, for --interpolator"),
    DISCRIMINATOR: "a discriminator",
    BACKBONE: "backbone weights, for 'afictl finetune --backbone-weights'",
}


def to_afictl(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint under afictl's tensor names and with a description; unchanged if no layout recognises it."""
    if checkpoint.metadata.get("format"):
        return checkpoint
    variants = [replace(checkpoint, tensors=tensors) for tensors in unwrapped_variants(checkpoint.tensors)]
    for translate in LAYOUTS:
        for variant in variants:
            translated = translate(variant)
            if translated is not None:
                return _with_stored_classes(translated, checkpoint.class_names, checkpoint.notes)
    return checkpoint


def _with_stored_classes(
    checkpoint: Checkpoint, candidates: tuple[ClassNames, ...], notes: tuple[str, ...]
) -> Checkpoint:
    """A translated checkpoint whose detector has the class names that the file holds, in their order."""
    metadata = checkpoint.metadata
    if metadata.get("format") != DETECTOR:
        return replace(checkpoint, class_names=(), notes=notes)
    classes = list(metadata["classes"])
    names = names_of_count(candidates, len(classes))
    if names and list(names) != classes:
        metadata = {**metadata, "classes": list(names), "category_ids": list(range(1, len(names) + 1))}
    if candidates and not names:
        notes = (*notes, _unfitting_names(candidates[0], classes))
    return replace(checkpoint, metadata=metadata, class_names=(names,) if names else (), notes=notes)


def _unfitting_names(names: ClassNames, classes: Sequence[str]) -> str:
    """A note on class names whose number is not that of the class layer."""
    return (
        f"its {len(names)} class names ({first_names(names)}) do not fit its class layer of {len(classes)} classes,"
        f" which are taken to be {first_names(classes)}"
    )


def stated_classes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Class names of a detector in label order, if its file has them; empty where they are assumed."""
    if checkpoint.class_names:
        return checkpoint.class_names[0]
    names = checkpoint.metadata.get("classes")
    if not isinstance(names, list) or ("origin" in checkpoint.metadata and are_assumed(names)):
        return ()
    return tuple(names)


def describe_content(checkpoint: Checkpoint) -> str:
    """The kind of a checkpoint, its number of tensors and its first tensor name, for error messages."""
    first = next(iter(checkpoint.tensors), "none")
    title = _TITLES.get(str(checkpoint.metadata.get("format")))
    if title is None and is_classifier(checkpoint.tensors):
        title = _TITLES[BACKBONE]
    title = title or "tensors without a description, in no supported layout"
    return f"{title} ({len(checkpoint.tensors)} tensors, first {first})"
