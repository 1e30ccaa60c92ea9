"""Presets: the schema of a detector and its recipe, and the loading of the YAML files that name one.

A preset file holds only what differs from the schema's defaults (or from the preset it ``extends``); the loaded
``Preset`` is complete and frozen. The defaults are the detectron2 recipe of an R50-FPN detector on COCO.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from afictl.errors import UserError, did_you_mean

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


_TORCHVISION = "torchvision:"
_DETECTRON2 = "detectron2:"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_PositiveInt = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A frozen group of keys; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
    channels: int = Field(default=256, gt=0)
    norm: Literal["none", "batch"] = "none"
    """FPN, PAFPN: batch norm after every convolution. BiFPN always has it."""
    fuse: Literal["sum", "avg"] = "sum"
    """FPN, PAFPN: the enlarged coarse map is added to the finer one, or averaged with it."""
    top: Literal["pool", "p5", "res5"] = "pool"
    """FPN, PAFPN: where the levels above p5 come from. ``pool``: p6 is every second position of p5, the pyramid is
    p2..p6. ``p5``, ``res5``: p6 and p7 are strided convolutions of that map, the pyramid is p3..p7."""
    repeats: int = Field(default=6, gt=0)
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
    anchors_per_octave: int = Field(default=1, gt=0)
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
    fc_width: int = Field(default=1024, gt=0)
    mask_width: int = Field(default=256, gt=0)
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

    min_sizes: tuple[_PositiveInt, ...] = Field(default=(640, 672, 704, 736, 768, 800), min_length=1)
    """Short sides in pixels; training draws one for each image."""
    max_size: int = Field(default=1333, gt=0)
    """Longest allowed long side in pixels."""
    test_size: int = Field(default=800, gt=0)
    """Short side in pixels for evaluation."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of a horizontal flip in training."""
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[_Positive, _Positive, _Positive] = _IMAGENET_STD
    """RGB, for pixel values in 0..1."""


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

    @model_validator(mode="after")
    def _sizes_fit_levels(self) -> Preset:
        if len(self.detector.anchor_sizes) != 5:
            raise ValueError("detector.anchor_sizes needs one size for each of the five pyramid levels")
        if len(self.detector.size_ranges) != 4 or sorted(self.detector.size_ranges) != list(self.detector.size_ranges):
            raise ValueError("detector.size_ranges needs four rising sizes, one for each pyramid level but the last")
        return self


def _folder() -> Path:
    """``presets/`` of the checkout, or its copy inside an installed wheel."""
    installed = Path(__file__).parent / "_presets"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "presets"


def list_presets() -> list[str]:
    """Names of the shipped presets, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml") if not path.stem.startswith("_"))


def list_torchvision_presets() -> list[str]:
    """Names of the presets that are models of torchvision, such as ``torchvision:fasterrcnn_resnet50_fpn``, sorted."""
    return sorted(f"{_TORCHVISION}{path.stem}" for path in (_folder() / "torchvision").glob("*.yaml"))


def load_preset(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Preset:
    """Load a preset by name or from a YAML file.

    Args:
        name_or_path: a name from ``list_presets()``, the path of a ``.yaml`` file, ``torchvision:`` and the name of a
            detection model of torchvision, or ``detectron2:`` and a configuration of detectron2.
        overrides: settings such as ``"train.lr=0.01"``; the value is read as YAML.

    Raises:
        UserError: unknown preset, unreadable file, unknown key or a value of the wrong kind.
    """
    name = str(name_or_path)
    if name.startswith(_DETECTRON2):
        return parse_preset(_detectron2_values(name), overrides, source=name)
    path = _find(name)
    default = name if name.startswith(_TORCHVISION) else path.stem
    return parse_preset({"name": default, **_read(path)}, overrides, source=str(path))


def parse_preset(values: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "preset") -> Preset:
    """Check the nested ``values`` of a preset, with ``overrides`` on top; ``source`` is named in errors."""
    merged = _merge(_defaults(), values)
    preset = _validate(merged, source)
    overrides = list(overrides)
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    return _validate(merged, "--set") if overrides else preset


def _defaults() -> dict[str, Any]:
    return Preset(name="").model_dump()


def _validate(values: Mapping[str, Any], source: str) -> Preset:
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_explain(error)}") from None


def _detectron2_values(name: str) -> dict[str, Any]:
    """What the configuration behind ``detectron2:`` says; read by detectron2, which is optional."""
    from afictl.detectron2_presets import preset_values

    return preset_values(name.removeprefix(_DETECTRON2))


def _find(name: str) -> Path:
    if name.startswith(_TORCHVISION):
        return _find_torchvision(name)
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"preset file {name} does not exist")
        return path
    if name not in list_presets():
        raise UserError(
            f"no preset is called '{name}'{did_you_mean(name, list_presets())}; 'afictl model list' shows all presets"
        )
    return _folder() / f"{name}.yaml"


def _find_torchvision(name: str) -> Path:
    known = [each.removeprefix(_TORCHVISION) for each in list_torchvision_presets()]
    model = name.removeprefix(_TORCHVISION)
    if model not in known:
        raise UserError(
            f"no model of torchvision with a feature pyramid is called '{model}'{did_you_mean(model, known)}; "
            f"there are {', '.join(known)}"
        )
    return _folder() / "torchvision" / f"{model}.yaml"


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file's values on top of those of the preset that it extends."""
    if path in seen:
        raise UserError(f"{path}: extends: the preset extends itself")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a preset is a mapping of keys to values")
    base = values.pop("extends", None)
    if base is None:
        return values
    beside = path.parent / f"{base}.yaml"
    inherited = _read(beside if beside.is_file() else _find(str(base)), (*seen, path))
    inherited.pop("published", None)
    return _merge(inherited, values)


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--set {text}: write KEY=VALUE, for example train.lr=0.01")
    try:
        parsed: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: the value is not readable as YAML") from None
    if isinstance(parsed, str):  # YAML 1.1 takes 1e-3 for a string
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def _explain(error: ValidationError) -> str:
    """The first few problems of a pydantic error, each as ``key: what is wrong``, on one line."""
    problems = []
    for item in error.errors()[:3]:
        location = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            known = _keys_at(location[:-1])
            problems.append(f"{'.'.join(location)}: unknown key{did_you_mean(location[-1], known)}")
        else:
            problems.append(f"{'.'.join(location) or 'preset'}: {item['msg']} (got {item['input']!r:.60})")
    return "; ".join(problems)


def _keys_at(location: list[str]) -> list[str]:
    model: Any = Preset
    for part in location:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Section):
            return []
        model = field.annotation
    return list(model.model_fields)
