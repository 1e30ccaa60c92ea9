"""Sections of a preset that describe the model: backbone, neck, interpolator and detector.

Necks and detectors have one class for each kind, which holds the keys of that kind and no others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from afictl.presets.numbers import ConvWidth, Fraction, Integer, LinearWidth, Pixels, Ratio, Regions, Repeats

Norm: TypeAlias = Literal["none", "batch"]


class Section(BaseModel):
    """A frozen group of keys; an unknown key and a number that is not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BackboneConfig(Section):
    """The bottom-up network."""

    name: str = "resnet50"
    """timm's name of a network with feature maps of strides 4, 8, 16 and 32, with or without a weight tag."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of timm's model, such as ``{drop_path_rate: 0.2}``."""
    pretrained: bool = True
    """Start from ImageNet weights."""
    frozen_stages: Integer = Field(default=2, ge=0, le=5)
    """Number of frozen stages, counted as detectron2's FREEZE_AT: 1 is the stem, 2 the stem and res2 (stride 4)."""
    norm: Literal["batch", "frozen-batch"] = "frozen-batch"
    """Batch norm of the trainable stages: trained as usual, or fixed statistics and scale. Layer norm is trained."""
    stride_in_1x1: bool = False
    """Bottlenecks stride in their first 1x1 convolution, as in detectron2's MSRA weights, not in the 3x3."""
    checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them: less memory, more time."""


class _NeckKeys(Section):
    kind: str
    channels: ConvWidth = 256
    """Channels of every level."""
    interpolators: Literal["shared", "per-step"] = "shared"
    """``shared``: one interpolator for all enlargements of a forward pass. ``per-step``: a module for each, all of one
    kind, with weights of their own that start equal; in a BiFPN four in each layer."""


class _TopDownKeys(_NeckKeys):
    norm: Norm = "none"
    """Batch norm after every convolution."""
    fuse: Literal["sum", "avg"] = "sum"
    """The upsampled coarse map is added to the finer map, or averaged with it."""
    top: Literal["pool", "p5", "res5"] = "pool"
    """Input of the levels above p5. ``pool``: p6 is every second position of p5, the pyramid is p2..p6. ``p5``,
    ``res5``: p6 and p7 are strided convolutions of that map, the pyramid is p3..p7."""
    top_down_from: Literal["p5", "p6"] = "p5"
    """Coarsest level of the top-down path. ``p6``: p6 is a strided 3x3 convolution of res5, whatever ``top`` is, and is
    enlarged to p5, so that there is one enlargement more (mmdetection's FPN_CARAFE); images are padded to 64."""


class FPNConfig(_TopDownKeys):
    """Feature pyramid network."""

    kind: Literal["fpn"] = "fpn"


class PAFPNConfig(_TopDownKeys):
    """Feature pyramid network with a bottom-up path."""

    kind: Literal["pafpn"] = "pafpn"


class BiFPNConfig(_NeckKeys):
    """Bidirectional feature pyramid network, always p3..p7 with batch norm."""

    kind: Literal["bifpn"] = "bifpn"
    repeats: Repeats = 6
    """Number of layers."""
    fusion: Literal["fast", "raw"] = "fast"
    """Fusion weights: normalised to positive weights of sum one, or raw (published AFI-GAN)."""
    skips: Literal["layer", "input"] = "layer"
    """Second input of a layer's bottom-up path: the layer's input, or in every layer that of the first (published
    AFI-GAN)."""
    blocks: Literal["plain", "separable"] = "plain"
    """3x3 convolutions with torch's batch norm, max-pooling padded on all sides (AdelaiDet); or depthwise separable
    ones with batch norm of eps 1e-3 and momentum 0.01, pooling padded with zeros at the right and bottom
    (EfficientDet, published AFI-GAN)."""


NeckConfig: TypeAlias = Annotated[FPNConfig | PAFPNConfig | BiFPNConfig, Field(discriminator="kind")]
"""The feature pyramid."""


class InterpolatorConfig(Section):
    """The module that upsamples a map twofold inside the neck."""

    kind: str = "afi"
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of its class, which checks their names and values."""
    checkpointing: bool = False
    """Recompute its activations in the backward pass instead of storing them: less memory, more time."""


_WITHOUT_MASKS = {"mask-rcnn": "faster-rcnn", "cascade-mask-rcnn": "cascade-rcnn", "centermask": "fcos"}


class DetectionConfig(Section):
    """Keys that every kind of detector has; the numbers are detectron2's."""

    kind: str
    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = Field(default=0.5, gt=0)
    max_detections: Regions = 100

    @property
    def masks(self) -> bool:
        """Whether the detector has masks, which it trains on."""
        return self.kind in _WITHOUT_MASKS

    @property
    def without_masks(self) -> str | None:
        """The kind that is the same detector without masks; None where there is no such kind."""
        return _WITHOUT_MASKS.get(self.kind)


class AnchorConfig(DetectionConfig):
    """Keys of detectors with anchors."""

    anchor_sizes: tuple[Pixels, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Square root of the anchor area in pixels, one for each level of the pyramid."""
    anchors_per_octave: Repeats = 1
    """Anchor sizes per level: ``anchor_sizes`` times 2^(0/n), 2^(1/n), ... RetinaNet has three."""
    anchor_ratios: tuple[Ratio, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1)
    """Anchor height divided by width."""


class ProposalConfig(AnchorConfig):
    """Keys of detectors with region proposals."""

    rpn_batch: Regions = 256
    """Anchors sampled per image for the proposal losses."""
    proposals_before_nms_train: Regions = 2000
    proposals_before_nms_test: Regions = 1000
    """Proposals per level before non-maximum suppression."""
    proposals_train: Regions = 1000
    proposals_test: Regions = 1000
    """Proposals per image after non-maximum suppression."""
    roi_batch: Regions = 512
    """Regions sampled per image for the head losses, a quarter of them objects."""


class RCNNConfig(ProposalConfig):
    """Keys of the two-stage detectors."""

    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    """Layers between a pooled region and its class and box; ``4conv1fc`` has the neck's width."""
    head_norm: Norm = "none"
    """Batch norm after the convolutions of the box and mask heads."""
    fc_width: LinearWidth = 1024
    """Width of the hidden linear layers."""


class MaskedRCNNConfig(RCNNConfig):
    """Keys of the two-stage detectors with masks."""

    mask_width: ConvWidth = 256
    """Channels of the mask head."""


class FasterRCNNConfig(RCNNConfig):
    """Faster R-CNN."""

    kind: Literal["faster-rcnn"] = "faster-rcnn"


class MaskRCNNConfig(MaskedRCNNConfig):
    """Mask R-CNN."""

    kind: Literal["mask-rcnn"] = "mask-rcnn"


class CascadeRCNNConfig(RCNNConfig):
    """Cascade R-CNN."""

    kind: Literal["cascade-rcnn"] = "cascade-rcnn"


class CascadeMaskRCNNConfig(MaskedRCNNConfig):
    """Cascade R-CNN with masks."""

    kind: Literal["cascade-mask-rcnn"] = "cascade-mask-rcnn"


class RetinaNetConfig(AnchorConfig):
    """RetinaNet."""

    kind: Literal["retinanet"] = "retinanet"
    candidates: Regions = 1000
    """Anchors per level before non-maximum suppression."""


class PointConfig(DetectionConfig):
    """Keys of FCOS, with and without masks."""

    size_ranges: tuple[Pixels, ...] = (64.0, 128.0, 256.0, 512.0)
    """For each level but the last, the largest distance in pixels from a point to the farthest side of its box."""
    level_scales: bool = False
    """Whether each level has a learned factor on its box distances (AdelaiDet); detectron2's FCOS has none."""
    candidates: Regions = 1000
    """Points per level before non-maximum suppression."""


class FCOSConfig(PointConfig):
    """FCOS."""

    kind: Literal["fcos"] = "fcos"


class CenterMaskConfig(PointConfig):
    """CenterMask: FCOS with masks and mask scoring."""

    kind: Literal["centermask"] = "centermask"
    roi_batch: Regions = 512
    """Regions sampled per image for the mask losses, a quarter of them objects."""
    head_norm: Norm = "none"
    """Batch norm after the convolutions of the mask head."""
    fc_width: LinearWidth = 1024
    """Width of the hidden linear layers of the mask scoring."""
    mask_width: ConvWidth = 256
    """Channels of the mask head and of the mask scoring."""


class LibraryConfig(ProposalConfig):
    """Keys of models of other libraries; ``source`` decides which of them the model has."""

    source: str = ""
    """torchvision's name of the model; detectron2's of a configuration in its model zoo, or ``{...}``, a configuration
    itself, as YAML of all that is not detectron2's default."""
    segments: bool = False
    """Whether the model has masks. It follows from ``source`` and cannot be changed."""
    candidates: Regions = 1000
    """One-stage models: positions per level before non-maximum suppression."""

    @property
    def masks(self) -> bool:
        """Whether the detector has masks, which it trains on."""
        return self.segments


class TorchvisionConfig(LibraryConfig):
    """A model of torchvision."""

    kind: Literal["torchvision"] = "torchvision"


class Detectron2Config(LibraryConfig):
    """A model of detectron2."""

    kind: Literal["detectron2"] = "detectron2"
    fc_width: LinearWidth = 1024
    """Width of the hidden linear layers of the box head."""
    mask_width: ConvWidth = 256
    """Channels of the mask head."""


class TransformersConfig(DetectionConfig):
    """A model of transformers with a hybrid encoder.

    It suppresses no boxes: ``nms_threshold`` merges those of several views or tiles.
    """

    kind: Literal["transformers"] = "transformers"
    source: str = ""
    """``{...}``, its configuration, as YAML of all that is not the default of its ``model_type``."""


DetectorConfig: TypeAlias = Annotated[
    FasterRCNNConfig
    | MaskRCNNConfig
    | CascadeRCNNConfig
    | CascadeMaskRCNNConfig
    | RetinaNetConfig
    | FCOSConfig
    | CenterMaskConfig
    | TorchvisionConfig
    | Detectron2Config
    | TransformersConfig,
    Field(discriminator="kind"),
]
"""Meta-architecture and its heads."""


def has_anchors(detector: DetectionConfig) -> TypeGuard[AnchorConfig]:
    """Whether ``anchor_sizes`` are those of anchors; torchvision's FCOS has the key, but no anchors."""
    if isinstance(detector, TorchvisionConfig) and detector.source.startswith("fcos"):
        return False
    return isinstance(detector, AnchorConfig)
