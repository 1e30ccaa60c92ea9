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
    stages: str = "1,2"


class Source(NamedTuple):
    """Where a pre-trained method has its interpolator from."""

    run: str
    """Name in ``PRETRAININGS``."""
    stage: int
    setting: str = ""
    """Setting of the guide, with its detector and backbone; empty: that of the table."""


def _adversarial(weight: str) -> tuple[str, ...]:
    return (f"stage1.adversarial_weight={weight}", f"stage2.adversarial_weight={weight}")


_PLAIN = ("nearest", "bilinear", "bicubic")
_SUMS = "stage1.features=sums"
_KAIMING = "interpolator.options.init=kaiming"
_ONE_STEP = ("stage1.steps=1", "stage1.warmup_steps=0")
_STAGE_1_SUMS = {
    f"{kind}-sums": Pretraining(kind, (_SUMS,), "1") for kind in INTERPOLATORS if kind not in (*_PLAIN, "afi")
}

PRETRAININGS = {
    "afi": Pretraining("afi"),
    "afi-lite": Pretraining("afi-lite"),
    "afi-no-adversary": Pretraining("afi", _adversarial("0")),
    "afi-strong-adversary": Pretraining("afi", _adversarial("0.03")),
    "afi-stage2": Pretraining("afi", _ONE_STEP),
    "afi-long": Pretraining("afi", ("stage1.steps=600", "stage1.eval_every=300"), "1"),
    "afi-sums": Pretraining("afi", (_SUMS,)),
    "afi-kaiming": Pretraining("afi", (_KAIMING,)),
    "afi-kaiming-fresh": Pretraining("afi", (_KAIMING, *_ONE_STEP), "1"),
    **_STAGE_1_SUMS,
}
"""Runs of ``pretrain`` by name. Stage 2 alone follows one step of stage 1, as ``pretrain`` requires a stage 1, and
``afi-kaiming-fresh`` is one step too, as ``compare`` has one initialisation of a kind."""

PRETRAINED = {
    "afi-stage1": Source("afi", 1),
    "afi-stages12": Source("afi", 2),
    "afi-lite-stage1": Source("afi-lite", 1),
    "afi-lite-stages12": Source("afi-lite", 2),
    "afi-no-adversary": Source("afi-no-adversary", 2),
    "afi-strong-adversary": Source("afi-strong-adversary", 2),
    "afi-stage2": Source("afi-stage2", 2),
    "afi-long-stage1": Source("afi-long", 1),
    "afi-sums-stage1": Source("afi-sums", 1),
    "afi-sums-stages12": Source("afi-sums", 2),
    "afi-kaiming": Source("afi-kaiming-fresh", 1),
    "afi-kaiming-stage1": Source("afi-kaiming", 1),
    "afi-kaiming-stages12": Source("afi-kaiming", 2),
    "afi-from-fcos": Source("afi", 2, "bccd-fcos"),
    "afi-from-r18": Source("afi", 2, "bccd-r18"),
    **{f"{run}-stage1": Source(run, 1) for run in _STAGE_1_SUMS},
}
"""Interpolators of the pre-trained methods."""

_PARTS = (
    *("stage1", "long-stage1", "stage2", "stages12", "no-adversary", "strong-adversary"),
    *("sums-stage1", "sums-stages12"),
)
TABLES = {
    "main": (*INTERPOLATORS, "afi-stage1", "afi-stages12", "afi-lite-stage1", "afi-lite-stages12"),
    "claims": (
        *("nearest", "soft-nearest", "bilinear", "carafe", "dysample-plus", "lda-aqu", "freqfusion"),
        *("afi", "afi-stage1", "afi-stages12", "afi-lite-stages12"),
    ),
    "parts": ("nearest", "afi", *(f"afi-{part}" for part in _PARTS)),
    "reuse": ("nearest", "afi", "afi-stages12", "afi-from-fcos", "afi-from-r18"),
    "init": ("nearest", "soft-nearest", "bilinear", "afi", "afi-kaiming", "afi-kaiming-stage1", "afi-kaiming-stages12"),
    "conditions": ("nearest", "soft-nearest", "bilinear", "afi", "afi-stage1", "afi-stages12", "afi-sums-stage1"),
    "longer": ("nearest", "soft-nearest"),
    "fidelity": (*_PLAIN, "afi-sums-stage1", *(f"{run}-stage1" for run in _STAGE_1_SUMS)),
}
"""Methods of each table; the interpolators of ``reuse`` have the width of the settings on BCCD."""
