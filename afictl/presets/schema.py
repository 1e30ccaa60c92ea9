"""The schema of a preset: a detector and its recipe.

A preset file holds only what differs from the schema's defaults (or from the preset it ``extends``); the loaded
``Preset`` is complete and frozen. The defaults are the detectron2 recipe of an R50-FPN detector on COCO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from pydantic import Field, model_validator

from afictl.presets.architecture import (
    AnchorConfig,
    BackboneConfig,
    DetectorConfig,
    FasterRCNNConfig,
    FPNConfig,
    InterpolatorConfig,
    NeckConfig,
    PointConfig,
    Section,
)
from afictl.presets.numbers import (
    BatchSize,
    Fraction,
    GradientNorm,
    Interval,
    LearningRate,
    LongSide,
    LossWeight,
    MicroBatches,
    PixelDeviations,
    PixelMeans,
    Points,
    RateFactor,
    ScaleFactor,
    Side,
    Steps,
    StepsOrNone,
    WeightDecay,
    Workers,
)
from afictl.presets.pixel_statistics import IMAGENET


class InputConfig(Section):
    """Resizing, augmentation and normalisation of images."""

    min_sizes: tuple[Side, ...] = Field(default=(640, 672, 704, 736, 768, 800), min_length=1)
    """Short sides in pixels; in training one is drawn for each image."""
    max_size: LongSide = 1333
    """Maximum long side in pixels; an image that would exceed it is resized to a smaller short side."""
    test_size: Side = 800
    """Short side in pixels for evaluation."""
    square: bool = False
    """Stretch images to squares, whose side is the short side, or ``max_size`` if that is less (DETRs with a hybrid
    encoder); otherwise the aspect ratio stays."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip in training."""
    scale_jitter: tuple[ScaleFactor, ScaleFactor] = (1.0, 1.0)
    """Range of a random factor on the size of a training image (large-scale jitter, https://arxiv.org/abs/2012.07177).
    A smaller image stays smaller; of a larger one a random window of the usual size is cropped."""
    color_jitter: Fraction = 0.0
    """Largest relative change of brightness, of contrast and of saturation in training."""
    copy_paste: Fraction = 0.0
    """Probability that half of the objects of another training image are pasted, each cut out by its mask, as in
    https://arxiv.org/abs/2012.07177. Objects without a mask are then left out, also for a detector without masks."""
    mean: PixelMeans = IMAGENET["mean"]
    std: PixelDeviations = IMAGENET["std"]
    """RGB, for pixel values in 0..1. Those of timm's description of ``backbone.name`` unless a preset has others."""

    @property
    def augmentation(self) -> dict[str, object]:
        """Settings of the augmentation beyond sizes and flips, if any is on."""
        defaults = {"scale_jitter": (1.0, 1.0), "color_jitter": 0.0, "copy_paste": 0.0}
        return {key: getattr(self, key) for key, off in defaults.items() if getattr(self, key) != off}

    @property
    def largest_hw(self) -> tuple[int, int]:
        """Height and width in pixels of the largest image in evaluation, a landscape unless all are squares."""
        short_side = min(self.test_size, self.max_size)
        return short_side, short_side if self.square else self.max_size


class Recipe(Section):
    """Optimisation of one stage. ``batch_size`` is the total over all devices."""

    steps: Steps
    batch_size: BatchSize
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: LearningRate
    lr_batch_size: BatchSize | None = None
    """Total batch that ``lr`` is for: the learning rate is ``lr * batch_size / lr_batch_size``, the linear rule of
    Goyal et al. (https://arxiv.org/abs/1706.02677); None: it is ``lr``."""
    momentum: Fraction = Field(default=0.9, lt=1)
    weight_decay: WeightDecay = 1e-4
    """Not applied to the scale and shift of norms, nor to the position biases of a Swin Transformer."""
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[StepsOrNone, ...] = ()
    """Steps at which ``multistep`` divides the learning rate by ten."""
    warmup_steps: StepsOrNone = 1000
    clip_norm: GradientNorm | None = None
    """Maximum gradient norm; None does not clip gradients."""
    eval_every: Interval = 5000
    """Steps between evaluations; the last step is always followed by one."""
    checkpoint_every: Interval = 5000
    """Steps between checkpoints of the resumable state."""

    @property
    def base_lr(self) -> float:
        """Learning rate between warm-up and the first drop."""
        return self.lr if self.lr_batch_size is None else self.lr * (self.batch_size / self.lr_batch_size)


class DetectorRecipe(Recipe):
    """Optimisation of stage 3."""

    accumulate: MicroBatches = 1
    """Gradient accumulation: number of micro-batches, one after another, into which every device divides its images of
    a step. ``batch_size`` stays the total of a step, and losses are divided by counts of all its images."""
    patience: Interval | None = None
    """Early stopping: the training ends after so many evaluations in a row without a higher box AP; None: never."""
    interpolator_lr: RateFactor = 1.0
    """Learning rate of the interpolator divided by that of the other parts; 0 freezes the interpolator."""
    ema_decay: Fraction = Field(default=0.0, lt=1)
    """Decay of the exponential moving average of the weights, which is then evaluated and saved; 0 for none. After n
    steps it is at most (1 + n) / (10 + n), so that a short training forgets its first weights too."""

    @property
    def micro_batch_size(self) -> int:
        """Images of a micro-batch over all devices."""
        return self.batch_size // self.accumulate


class AdversarialRecipe(Recipe):
    """Optimisation of a stage with the discriminator."""

    adversarial_weight: LossWeight = 1e-3
    """Weight of the adversarial term beside the L1 term."""


GuideFeatures: TypeAlias = Literal["levels", "sums"]
"""Features of the guide that stage 1 enlarges."""


class InterpolatorRecipe(AdversarialRecipe):
    """Optimisation of stage 1."""

    features: GuideFeatures = "levels"
    """``levels``: the pyramid, as published. ``sums``: the maps that the guide's neck passes to its interpolator, which
    a detector will have it enlarge: the sums before the output convolutions."""


class LoaderConfig(Section):
    """Data loading."""

    workers: Workers = 2
    """Loader processes per device; 0 loads in the training process."""


class Scores(Section):
    """COCO AP in points, 0..100."""

    box: Points | None = None
    mask: Points | None = None


class Published(Section):
    """Numbers of the AFI-GAN paper's results table (COCO test-dev) for a preset; none of them measured with afictl."""

    nearest: Scores = Scores()
    afi: Scores = Scores()
    note: str = ""
    """Differences of the rows from the preset, such as self-training."""


class Preset(Section):
    """A detector, backbone and neck pairing with its recipe for every stage."""

    name: str
    description: str = ""
    published: Published = Published()
    """Not inherited by a preset that extends this one."""
    detector: DetectorConfig = FasterRCNNConfig()
    backbone: BackboneConfig = BackboneConfig()
    neck: NeckConfig = FPNConfig()
    interpolator: InterpolatorConfig = InterpolatorConfig()
    input: InputConfig = InputConfig()
    loader: LoaderConfig = LoaderConfig()
    train: DetectorRecipe = DetectorRecipe(steps=270_000, batch_size=16, lr=0.02, milestones=(210_000, 250_000))
    """Stage 3: ordinary training of the detector, also of a guide."""
    stage1: InterpolatorRecipe = InterpolatorRecipe(steps=300_000, batch_size=8, lr=0.001, milestones=(270_000,))
    """Stage 1: interpolator against discriminator on the guide's features."""
    stage2: AdversarialRecipe = AdversarialRecipe(steps=180_000, batch_size=8, lr=0.01, milestones=(120_000, 160_000))
    """Stage 2: detector on the half-size image, with detection and feature losses."""

    def with_interpolator(self, kind: str, options: Mapping[str, float]) -> Preset:
        """The same preset with another interpolator."""
        config = self.interpolator.model_copy(update={"kind": kind, "options": dict(options)})
        return self.model_copy(update={"interpolator": config})

    def with_kind(self, kind: str) -> Preset:
        """The same preset with another kind of interpolator, which has its default options."""
        return self if kind == self.interpolator.kind else self.with_interpolator(kind, {})

    @model_validator(mode="after")
    def _scales_rise(self) -> Preset:
        low, high = self.input.scale_jitter
        if low > high:
            raise ValueError(f"input.scale_jitter: needs the smaller factor first (got [{low:g}, {high:g}])")
        return self

    @model_validator(mode="after")
    def _micro_batches_are_equal(self) -> Preset:
        recipe = self.train
        if recipe.batch_size % recipe.accumulate:
            raise ValueError(
                f"train.accumulate: must divide train.batch_size={recipe.batch_size} (got {recipe.accumulate})"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit_levels(self) -> Preset:
        detector = self.detector
        if isinstance(detector, AnchorConfig) and len(detector.anchor_sizes) != 5:
            raise ValueError("detector.anchor_sizes needs one size for each of the five pyramid levels")
        if isinstance(detector, PointConfig):
            ranges = list(detector.size_ranges)
            if len(ranges) != 4 or sorted(ranges) != ranges:
                raise ValueError(
                    "detector.size_ranges needs four rising sizes, one for each pyramid level but the last"
                )
        return self


def section_kinds(section: str) -> dict[str, type[Section]]:
    """The config class of each kind of a section of ``Preset``; empty for a section without kinds."""
    field = Preset.model_fields.get(section)
    models = get_args(field.annotation) if field else ()
    return {str(model.model_fields["kind"].default): model for model in models}
