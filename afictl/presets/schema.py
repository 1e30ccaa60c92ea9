"""The schema of a preset: a detector and its recipe.

A preset file holds only what differs from the schema's defaults (or from the preset it ``extends``); the loaded
``Preset`` is complete and frozen. The defaults are the detectron2 recipe of an R50-FPN detector on COCO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


_Positive = Annotated[float, Field(gt=0)]
_Side = Annotated[int, Field(ge=8)]


class Section(BaseModel):
    """A frozen group of keys; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BackboneConfig(Section):
    """The bottom-up network."""

    name: str = "resnet50"
    """timm model name, with or without a weight tag: a ResNet, ResNeSt or Swin Transformer."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of timm's model, such as ``{drop_path_rate: 0.2}``."""
    pretrained: bool = True
    """Start from ImageNet weights."""
    frozen_stages: int = Field(default=2, ge=0, le=5)
    """How many stages stay as they are, counted as detectron2's FREEZE_AT: 1 is the stem, 2 the stem and res2."""
    norm: Literal["batch", "frozen-batch"] = "frozen-batch"
    """Batch norm of the trainable stages: trained as usual, or fixed statistics and scale. Layer norm is trained."""
    stride_in_1x1: bool = False
    """Bottlenecks stride in their first 1x1 convolution, as in detectron2's MSRA weights, not in the 3x3."""
    checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""


class NeckConfig(Section):
    """The feature pyramid."""

    kind: Literal["fpn", "pafpn", "bifpn"] = "fpn"
    channels: int = Field(default=256, gt=0, le=8192)
    norm: Literal["none", "batch"] = "none"
    """FPN, PAFPN: batch norm after every convolution. BiFPN always has it."""
    fuse: Literal["sum", "avg"] = "sum"
    """FPN, PAFPN: the enlarged coarse map is added to the finer one, or averaged with it."""
    top: Literal["pool", "p5", "res5"] = "pool"
    """FPN, PAFPN: where the levels above p5 come from. ``pool``: p6 is every second position of p5, the pyramid is
    p2..p6. ``p5``, ``res5``: p6 and p7 are strided convolutions of that map, the pyramid is p3..p7."""
    repeats: int = Field(default=6, gt=0, le=100)
    """BiFPN: number of layers."""
    fusion: Literal["fast", "raw"] = "fast"
    """BiFPN: fusion weights are made positive and sum to one, or are used as they are (published AFI-GAN)."""
    skips: Literal["layer", "input"] = "layer"
    """BiFPN: what a layer's bottom-up path sees beside its own maps: the layer's input, or in every layer that of the
    first (published AFI-GAN)."""
    blocks: Literal["plain", "separable"] = "plain"
    """BiFPN: 3x3 convolutions with torch's batch norm, max-pooling padded on all sides (AdelaiDet); or depthwise
    separable ones with batch norm of eps 1e-3 and momentum 0.01, pooling padded with zeros at the right and bottom
    (EfficientDet, published AFI-GAN)."""


class InterpolatorConfig(Section):
    """What enlarges a map twofold inside the neck."""

    kind: str = "afi"
    options: dict[str, Any] = Field(default_factory=dict)


_WITHOUT_MASKS = {"mask-rcnn": "faster-rcnn", "cascade-mask-rcnn": "cascade-rcnn", "centermask": "fcos"}


class DetectorConfig(Section):
    """Meta-architecture and its heads; the numbers are detectron2's."""

    kind: Literal[
        "faster-rcnn",
        "mask-rcnn",
        "cascade-rcnn",
        "cascade-mask-rcnn",
        "retinanet",
        "fcos",
        "centermask",
        "torchvision",
        "detectron2",
    ] = "faster-rcnn"
    """The last two are models of those libraries; ``source`` says which."""
    source: str = ""
    """Models of other libraries: torchvision's name of the model; detectron2's of a configuration in its model zoo, or
    ``{...}``, a configuration itself, as YAML of all that is not detectron2's default."""
    segments: bool = False
    """Models of other libraries: whether they have masks. It follows from ``source`` and changes nothing."""
    anchor_sizes: tuple[_Positive, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Square root of the anchor area in pixels, one for each level of the pyramid."""
    anchors_per_octave: int = Field(default=1, gt=0, le=100)
    """Anchor sizes a level: ``anchor_sizes`` times 2^(0/n), 2^(1/n), ... RetinaNet has three."""
    anchor_ratios: tuple[_Positive, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)
    """Anchor height divided by width."""
    rpn_batch: int = Field(default=256, gt=0)
    """Anchors sampled an image for the proposal losses."""
    proposals_before_nms_train: int = Field(default=2000, gt=0)
    proposals_before_nms_test: int = Field(default=1000, gt=0)
    """Proposals kept a level before suppression."""
    proposals_train: int = Field(default=1000, gt=0)
    proposals_test: int = Field(default=1000, gt=0)
    """Proposals kept an image after suppression."""
    roi_batch: int = Field(default=512, gt=0)
    """Regions sampled an image for the head losses, a quarter of them objects."""
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    """Layers between a pooled region and its class and box; ``4conv1fc`` keeps the neck's width."""
    head_norm: Literal["none", "batch"] = "none"
    """Batch norm after the convolutions of the box and mask heads."""
    fc_width: int = Field(default=1024, gt=0, le=65536)
    mask_width: int = Field(default=256, gt=0, le=8192)
    size_ranges: tuple[_Positive, ...] = (64.0, 128.0, 256.0, 512.0)
    """FCOS: up to how many pixels from a point to the farthest side of its box each level but the last serves."""
    level_scales: bool = False
    """FCOS: a learned factor on the box distances of each level (AdelaiDet); detectron2's FCOS has none."""
    candidates: int = Field(default=1000, gt=0)
    """RetinaNet, FCOS: positions kept a level before suppression."""
    score_threshold: float = Field(default=0.05, ge=0, le=1)
    nms_threshold: float = Field(default=0.5, gt=0, le=1)
    max_detections: int = Field(default=100, gt=0)

    @property
    def masks(self) -> bool:
        """Whether the detector has masks, which it trains on."""
        return self.segments or self.kind in _WITHOUT_MASKS

    @property
    def without_masks(self) -> str | None:
        """The kind that is the same detector without masks; None where there is no such kind."""
        return _WITHOUT_MASKS.get(self.kind)


class InputConfig(Section):
    """How an image becomes what the detector sees."""

    min_sizes: tuple[_Side, ...] = Field(default=(640, 672, 704, 736, 768, 800), min_length=1)
    """Short sides in pixels; training draws one for each image."""
    max_size: _Side = 1333
    """Longest allowed long side in pixels; an image that would pass it becomes smaller than its short side asks."""
    test_size: _Side = 800
    """Short side in pixels for evaluation."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[_Positive, _Positive, _Positive] = _IMAGENET_STD
    """RGB, for pixel values in 0..1."""

    @property
    def largest_hw(self) -> tuple[int, int]:
        """Height and width in pixels of the largest image that evaluation can have, upright ones aside."""
        return min(self.test_size, self.max_size), self.max_size


class Recipe(Section):
    """Optimisation of one stage. ``batch_size`` is the total over all devices."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    """Not applied to the scale and shift of norms, nor to the position biases of a Swin Transformer."""
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[int, ...] = ()
    """Steps at which ``multistep`` divides the rate by ten."""
    warmup_steps: int = Field(default=1000, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest gradient norm; None leaves gradients as they are."""
    eval_every: int = Field(default=5000, gt=0)
    """Steps between evaluations; one more follows the last step."""
    checkpoint_every: int = Field(default=5000, gt=0)
    """Steps between writes of the resumable state."""


class AdversarialRecipe(Recipe):
    """A stage that trains against the discriminator."""

    adversarial_weight: float = Field(default=1e-3, ge=0)
    """Weight of the adversarial term beside the L1 term."""


class LoaderConfig(Section):
    """How samples are read."""

    workers: int = Field(default=2, ge=0)
    """Reading processes for each device; 0 reads in the training process."""


class Scores(Section):
    """COCO AP in points, 0..100."""

    box: float | None = None
    mask: float | None = None


class Published(Section):
    """What the AFI-GAN paper's results table (COCO test-dev) says of a preset; its numbers, not ours."""

    nearest: Scores = Scores()
    afi: Scores = Scores()
    note: str = ""
    """What the rows contain beside the preset, such as self-training."""


class Preset(Section):
    """A detector, backbone and neck pairing with its recipe for every stage."""

    name: str
    description: str = ""
    published: Published = Published()
    """Belongs to one preset: a preset that extends another does not inherit it."""
    detector: DetectorConfig = DetectorConfig()
    backbone: BackboneConfig = BackboneConfig()
    neck: NeckConfig = NeckConfig()
    interpolator: InterpolatorConfig = InterpolatorConfig()
    input: InputConfig = InputConfig()
    loader: LoaderConfig = LoaderConfig()
    train: Recipe = Recipe(steps=270_000, batch_size=16, lr=0.02, milestones=(210_000, 250_000))
    """Stage 3: ordinary training of the detector. A guide is trained by it too."""
    stage1: AdversarialRecipe = AdversarialRecipe(steps=300_000, batch_size=8, lr=0.001, milestones=(270_000,))
    """Stage 1: interpolator against discriminator on the guide's features."""
    stage2: AdversarialRecipe = AdversarialRecipe(steps=180_000, batch_size=8, lr=0.01, milestones=(120_000, 160_000))
    """Stage 2: detector on the half-size image, with detection and feature losses."""

    def with_interpolator(self, kind: str, options: Mapping[str, Any]) -> Preset:
        """The same preset with another interpolator."""
        return self.model_copy(update={"interpolator": InterpolatorConfig(kind=kind, options=dict(options))})

    @model_validator(mode="after")
    def _sizes_fit_levels(self) -> Preset:
        if len(self.detector.anchor_sizes) != 5:
            raise ValueError("detector.anchor_sizes needs one size for each of the five pyramid levels")
        if len(self.detector.size_ranges) != 4 or sorted(self.detector.size_ranges) != list(self.detector.size_ranges):
            raise ValueError("detector.size_ranges needs four rising sizes, one for each pyramid level but the last")
        return self
