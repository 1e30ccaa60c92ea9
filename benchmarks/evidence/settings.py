"""Settings of the evidence: data, detector, schedule. They were fixed before the first run."""

from __future__ import annotations

from dataclasses import dataclass, replace

_HALF_ANCHORS = "detector.anchor_sizes=[8, 16, 32, 64, 128]"
_COMMON = ("train.warmup_steps=10", "loader.workers=0")
_PRETRAINING = ("stage1.steps=200", "stage1.eval_every=100", "stage2.steps=150", "stage2.eval_every=150")


@dataclass(frozen=True)
class Setting:
    """A data set and a detector on it, in which all methods are trained equally."""

    name: str
    preset: str
    overrides: tuple[str, ...]
    guide_steps: int
    """Steps of the guide: the detector with ``nearest`` from which all runs start and which pre-training imitates."""
    steps: int
    """Fine-tuning steps of each run."""
    generated: tuple[str, ...] = ()
    """Arguments of ``afictl data shapes``; empty for a data set that the user provides."""
    needs_backbone_weights: bool = False
    guide_of: str = ""
    """Setting whose data, guide and pre-training this one shares; empty: its own."""
    labelled_fraction: float = 1.0
    """Of the training images that keep their annotations in the runs of the table."""
    short_side: int = 160
    tiles: int = 0
    """Side of the tiles that the user's images are cut into; 0: whole images."""
    precision: str = "32-true"
    """Number format of all trainings."""

    def training_flags(self, steps: int) -> list[str]:
        """Preset and overrides of ``finetune`` and ``compare``."""
        sizes = (f"input.min_sizes=[{self.short_side}]", f"input.test_size={self.short_side}")
        values = (*sizes, *_COMMON, *self.overrides, *_PRETRAINING, f"train.steps={steps}", f"train.eval_every={steps}")
        overrides = (word for value in values for word in ("--set", value))
        return ["--preset", self.preset, *overrides, *self.precision_flags()]

    def precision_flags(self) -> list[str]:
        """``--precision``, unless it is the default."""
        return [] if self.precision == "32-true" else ["--precision", self.precision]


_SHAPES = Setting(
    "shapes",
    "faster-rcnn-r18-fpn-tiny",
    (_HALF_ANCHORS,),
    guide_steps=400,
    steps=150,
    generated=("--train", "1000", "--val", "200", "--size", "160"),
)
_R50 = (
    *("backbone.name=resnet50", "neck.channels=256", "detector.fc_width=1024"),
    *("input.max_size=512", "train.batch_size=8", "train.lr=5e-4"),
)
_FROZEN = "train.interpolator_lr=0"
SETTINGS = {
    setting.name: setting
    for setting in (
        _SHAPES,
        replace(_SHAPES, name="shapes-guide", guide_steps=1200),
        replace(_SHAPES, name="shapes-short", guide_of="shapes", steps=30),
        replace(_SHAPES, name="shapes-longer", guide_of="shapes", steps=225),
        replace(_SHAPES, name="shapes-longest", guide_of="shapes", steps=600),
        replace(_SHAPES, name="shapes-few", guide_of="shapes", labelled_fraction=0.05),
        replace(_SHAPES, name="shapes-rate", guide_of="shapes", overrides=(_HALF_ANCHORS, "train.interpolator_lr=5")),
        replace(_SHAPES, name="shapes-ema", guide_of="shapes", overrides=(_HALF_ANCHORS, "train.ema_decay=0.98")),
        replace(_SHAPES, name="shapes-frozen", guide_of="shapes", overrides=(_HALF_ANCHORS, _FROZEN)),
        Setting(
            "shapes-r50",
            "faster-rcnn-r18-fpn-tiny",
            (_HALF_ANCHORS, *_R50),
            guide_steps=800,
            steps=200,
            generated=("--train", "1000", "--val", "200", "--size", "512"),
            short_side=512,
            precision="bf16-mixed",
        ),
        Setting(
            "bccd",
            "faster-rcnn-lite0-fpn",
            (_HALF_ANCHORS,),
            guide_steps=300,
            steps=100,
            needs_backbone_weights=True,
        ),
        Setting("bccd-fcos", "fcos-lite0-fpn", (), guide_steps=300, steps=100, needs_backbone_weights=True),
        Setting(
            "vehicles",
            "faster-rcnn-lite0-fpn",
            (_HALF_ANCHORS, "train.batch_size=2"),
            guide_steps=240,
            steps=80,
            needs_backbone_weights=True,
            short_side=512,
            tiles=512,
        ),
        Setting(
            "bccd-r18",
            "faster-rcnn-r18-fpn-tiny",
            (_HALF_ANCHORS, "neck.channels=96"),
            guide_steps=400,
            steps=150,
        ),
    )
}
