"""Grad-CAM of one detection for several detectors, at one pyramid level and on one colour scale.

Grad-CAM (Selvaraju et al., https://arxiv.org/abs/1610.02391) is computed by captum, for the output of the neck at one
level and the mean of the class logits for a fixed box at that level (``HeadWithClassLogits.box_class_logits``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from afictl.data.transforms import move_boxes, resize_for, resize_image
from afictl.detectors import Detector, ImageBatch
from afictl.detectors.head import HeadWithClassLogits
from afictl.errors import UserError
from afictl.visualization.colormaps import heat_colors, scale_strip
from afictl.visualization.detections import outline_box
from afictl.visualization.drawing import drawn_size
from afictl.visualization.figure import Figure, Panel, text_size
from afictl.visualization.named_models import NamedDetectors
from afictl.visualization.pictures import Picture

_OPACITY = (0.3, 0.75)  # of the colours of 0 and of 1


class BoxLogitModel(nn.Module):
    """Adapter of a detector for captum: normalised images -> one logit, with each pyramid level as a layer.

    Args:
        detector: detector in eval mode.
        sizes: height and width of the image without padding.
        box: (4,) xyxy in pixels of the image.
        label: 1..K.
    """

    def __init__(self, detector: Detector, sizes: list[tuple[int, int]], box: Tensor, label: int) -> None:
        super().__init__()
        self.detector = detector
        self.sizes, self.box, self.label = sizes, box, label
        self.levels = nn.ModuleDict({level: nn.Identity() for level in detector.neck.strides})

    def class_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Class logits for the box by level, from images (1, 3, H, W)."""
        maps = self.detector.neck(self.detector.backbone(images))
        features = {level: self.levels[level](value) for level, value in maps.items()}
        head = self.detector.head
        if not isinstance(head, HeadWithClassLogits):
            raise UserError(f"{self.detector.preset.name}: Grad-CAM needs a head with class logits for a given box")
        return head.box_class_logits(ImageBatch(images, self.sizes), features, self.box, self.label)

    def forward(self, images: Tensor, level: str) -> Tensor:
        """Mean class logit for the box at ``level``, (1,)."""
        return self.class_logits(images)[level].mean()[None]


@dataclass(frozen=True)
class TargetDetection:
    """The detection to explain."""

    box: Tensor
    """(4,) xyxy in pixels of the image."""
    label: str
    """Class name."""
    score: float | None
    """None for an object of the ground truth."""
    source: str
    """Name of the detector or ``ground truth``, for the note of a panel."""


@dataclass(frozen=True)
class HeatMap:
    """Grad-CAM of one detector."""

    values: Tensor
    """(h, w), at least 0, in pixels of the resized image."""
    logit: float


def compute_gradcam(
    detector: Detector, image: Tensor, box: Tensor, label: int, level: str | None = None
) -> tuple[str, HeatMap]:
    """Compute Grad-CAM for a box and class at a pyramid level, and return level and heat map.

    Args:
        detector: detector in eval mode.
        image: uint8 (3, H, W) RGB.
        box: (4,) xyxy in pixels of the image.
        label: 1..K.
        level: pyramid level; None: that of the highest class logit.

    Raises:
        UserError: the detector has no class logit for the box at this level.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    resized = resize_for(detector.input, image)
    size = (resized.shape[1], resized.shape[2])
    batch = detector.batch([resized])
    resized_box = move_boxes(box[None].float(), (image.shape[1], image.shape[2]), size)[0].to(batch.tensor.device)
    model = BoxLogitModel(detector, batch.sizes, resized_box, label)
    with torch.no_grad():
        logits = model.class_logits(batch.tensor)
    level = level or max(logits, key=lambda name: float(logits[name].max()))
    if level not in logits:
        raise UserError(f"the box is assigned to {'/'.join(logits)}, not to {level}")
    gradcam = LayerGradCam(model, model.levels[level])
    values = gradcam.attribute(batch.tensor, additional_forward_args=(level,), relu_attributions=True)
    resized_map: Any = LayerAttribution.interpolate(
        values.detach(), batch.tensor.shape[-2:], interpolate_mode="bilinear"
    )
    return level, HeatMap(resized_map[0, 0, : size[0], : size[1]].cpu(), float(logits[level].mean()))


def gradcam_figures(detectors: NamedDetectors, pictures: Sequence[Picture], threshold: float) -> Iterator[Figure]:
    """Yield a figure of each image: one detection, and the Grad-CAM of each detector for it.

    The detection is that of the first detector with the highest score, if this is at least ``threshold``, or else the
    largest object of the ground truth that is not a crowd. An image with neither is skipped. The level is that of the
    highest class logit of the first detector, for all detectors.

    Raises:
        UserError: a detector lacks the class, or assigns the box to another level.
    """
    for picture in pictures:
        image = picture.read()
        target = select_target(detectors, picture, image, threshold)
        if target is not None:
            yield _figure(detectors, picture, image, target)


def select_target(
    detectors: NamedDetectors, picture: Picture, image: Tensor, threshold: float
) -> TargetDetection | None:
    """Detection to explain; None without a detection and object."""
    first = next(iter(detectors.detectors))
    detection = detectors.detect(first, image, threshold)
    if len(detection["boxes"]):
        label = detectors.classes[int(detection["labels"][0]) - 1]
        return TargetDetection(detection["boxes"][0], label, float(detection["scores"][0]), f"detected by {first}")
    truth = picture.ground_truth()
    if truth is None or truth["crowd"].all():
        return None
    boxes, labels = (truth[key][~truth["crowd"]] for key in ("boxes", "labels"))
    largest = int((boxes[:, 2:] - boxes[:, :2]).prod(dim=1).argmax())
    return TargetDetection(boxes[largest], detectors.classes[int(labels[largest]) - 1], None, "from the ground truth")


def _figure(detectors: NamedDetectors, picture: Picture, image: Tensor, target: TargetDetection) -> Figure:
    level, heats = _heat_maps(detectors, image, target)
    highest = max(float(heat.values.max()) for heat in heats.values()) or 1.0
    size = drawn_size((image.shape[1], image.shape[2]))
    small = Image.fromarray(resize_image(image, size).permute(1, 2, 0).numpy())
    box = move_boxes(target.box[None], (image.shape[1], image.shape[2]), size)[0].tolist()
    score = "" if target.score is None else f" {target.score:.2f}"
    panels = [Panel(outline_box(small, box), f"{target.label}{score}", target.source)]
    panels += [
        Panel(outline_box(_overlay(small, heat.values / highest), box), name, _note(heat))
        for name, heat in heats.items()
    ]
    title = f"{picture.title}: Grad-CAM of '{target.label}' at {level}"
    stride = next(iter(detectors.detectors.values())).detector.neck.strides[level]
    text = (
        f"Positions of the map {level} (stride {stride}) that raise the class logit of the box. Box, level and colour "
        "scale are the same for all; each panel has the mean logit of the class there."
    )
    strip = scale_strip(text_size(small.size), highest, "Grad-CAM")
    return Figure(f"{picture.name}-gradcam", panels, title, text, strip=strip)


def _note(heat: HeatMap) -> str:
    zero = "" if heat.values.any() else ", zero everywhere"
    return f"logit {heat.logit:.2f}{zero}"


def _heat_maps(detectors: NamedDetectors, image: Tensor, target: TargetDetection) -> tuple[str, dict[str, HeatMap]]:
    level: str | None = None
    heats: dict[str, HeatMap] = {}
    for name, loaded in detectors.detectors.items():
        if target.label not in loaded.classes:
            raise UserError(f"{name}: has no class '{target.label}', that of the detection")
        try:
            level, heats[name] = compute_gradcam(
                loaded.detector, image, target.box, loaded.classes.index(target.label) + 1, level
            )
        except UserError as error:
            raise UserError(f"{name}: {error}; compare detectors of one kind with one input size") from None
    return str(level), heats


def _overlay(photo: Image.Image, heat: Tensor) -> Image.Image:
    """Blend the photograph in grey with the colours of ``heat`` (0..1), more opaque for higher values."""
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    values = np.asarray(Image.fromarray(heat.float().numpy()).resize(photo.size, Image.Resampling.BILINEAR))
    opacity = (_OPACITY[0] + values.clip(0, 1) * (_OPACITY[1] - _OPACITY[0]))[..., None]
    return Image.fromarray((grey * (1 - opacity) + heat_colors(values) * opacity).round().astype(np.uint8))
