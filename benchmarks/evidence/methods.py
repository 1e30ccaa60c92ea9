"""Methods of the tables: fresh and pre-trained interpolators."""

from __future__ import annotations

from typing import NamedTuple

INTERPOLATORS = (
    "nearest",
    "soft-nearest",
    "bilinear",
    "bicubic",
    "transposed-conv",
    "pixel-shuffle",
    "carafe",
    "dlu",
    "dysample",
    "dysample-plus",
    "dysample-s",
    "dysample-s-plus",
    "lda-aqu",
    "sapa",
    "fade",
    "freqfusion",
    "afi",
    "afi-lite",
)
"""Kinds that are compared with fresh weights; ``nearest``, the baseline, is the interpolator of the guide."""


class Pretraining(NamedTuple):
    """A run of ``pretrain``."""

    kind: str
    overrides: tuple[str, ...] = ()


def _adversarial(weight: str) -> tuple[str, ...]:
    return (f"stage1.adversarial_weight={weight}", f"stage2.adversarial_weight={weight}")


PRETRAININGS = {
    "afi": Pretraining("afi"),
    "afi-lite": Pretraining("afi-lite"),
    "afi-no-adversary": Pretraining("afi", _adversarial("0")),
    "afi-strong-adversary": Pretraining("afi", _adversarial("0.03")),
    "afi-stage2": Pretraining("afi", ("stage1.steps=1", "stage1.warmup_steps=0")),
    "afi-sums": Pretraining("afi", ("stage1.features=sums",)),
}
"""Runs of ``pretrain`` by name. Stage 2 alone follows one step of stage 1, as ``pretrain`` requires a stage 1."""

PRETRAINED = {
    "afi-stage1": ("afi", "stage1"),
    "afi-stages12": ("afi", "stage2"),
    "afi-lite-stage1": ("afi-lite", "stage1"),
    "afi-lite-stages12": ("afi-lite", "stage2"),
    "afi-no-adversary": ("afi-no-adversary", "stage2"),
    "afi-strong-adversary": ("afi-strong-adversary", "stage2"),
    "afi-stage2": ("afi-stage2", "stage2"),
    "afi-sums-stage1": ("afi-sums", "stage1"),
    "afi-sums-stages12": ("afi-sums", "stage2"),
}
"""Pre-training and stage of the interpolator of each pre-trained method."""

TABLES = {
    "main": (*INTERPOLATORS, "afi-stage1", "afi-stages12", "afi-lite-stage1", "afi-lite-stages12"),
    "parts": ("nearest", "afi", *(method for method in PRETRAINED if not method.startswith("afi-lite"))),
}
"""Methods of each table."""
