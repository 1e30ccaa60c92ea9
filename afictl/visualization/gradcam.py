"""Grad-CAM of one detection for several detectors, at the same pyramid level and on one colour scale.

Grad-CAM (Selvaraju et al., https://arxiv.org/abs/1610.02391) is captum's. Its layer is the neck's output at one level,
its score the mean of the class logits for a fixed box at that level (``HeadWithClassLogits.box_class_logits``).
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
from afictl.visualization.detections import drawn_size, outline_box
from afictl.visualization.figure import Figure, Panel, text_size
from afictl.visualization.named_models import NamedDetectors
from afictl.visualization.pictures import Picture

_OPACITY = (0.3, 0.75)  # of the colours at a heat of 0 and of 1


class BoxLogitModel(nn.Module):
    """A detector as captum takes it: normalised images -> one logit, with each level of the pyramid as a layer.

    Args:
        detector: in eval mode.
        sizes: height and width of the one image without padding.
        box: (4,) xyxy in its pixels.
        label: 1..K.
    """

    def __init__(self, detector: Detector, sizes: list[tuple[int, int]], box: Tensor, label: int) -> None:
        super().__init__()
        self.detector = detector
        self.sizes, self.box, self.label = sizes, box, label
        self.levels = nn.ModuleDict({level: nn.Identity() for level in detector.neck.strides})

    def class_logits(self, images: Tensor) -> dict[str, Tensor]:
        """The class logits for the box, by level, from (1, 3, H, W)."""
        maps = self.detector.neck(self.detector.backbone(images))
        features = {level: self.levels[level](value) for level, value in maps.items()}
        head = self.detector.head
        if not isinstance(head, HeadWithClassLogits):
            raise UserError(f"{self.detector.preset.name}: Grad-CAM needs a head with class logits for a given box")
        return head.box_class_logits(ImageBatch(images, self.sizes), features, self.box, self.label)

    def forward(self, images: Tensor, level: str) -> Tensor:
        """Mean logit at ``level``, (1,)."""
        return self.class_logits(images)[level].mean()[None]


@dataclass(frozen=True)
class TargetDetection:
    """The detection to explain."""

    box: Tensor
    """(4,) xyxy in pixels of the image."""
    label: str
    score: float | None
    """None for an object of the ground truth."""
    source: str
    """The detector, or the ground truth."""


@dataclass(frozen=True)
class HeatMap:
    """Grad-CAM of one detector."""

    values: Tensor
    """(h, w) from 0 on, in pixels of the resized image."""
    logit: float


def explain(
    detector: Detector, image: Tensor, box: Tensor, label: int, level: str | None = None
) -> tuple[str, HeatMap]:
    """Level and Grad-CAM of ``box`` and class ``label``, at ``level`` or that of the highest class logit.

    Args:
        detector: in eval mode.
        image: uint8 (3, H, W) RGB.
        box: (4,) xyxy in its pixels.
        label: 1..K.

    Raises:
        UserError: the detector predicts no logit for the box at this level.
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
        raise UserError(f"the box belongs to {'/'.join(logits)} of this detector, not on {level}")
    gradcam = LayerGradCam(model, model.levels[level])
    values = gradcam.attribute(batch.tensor, additional_forward_args=(level,), relu_attributions=True)
    resized_map: Any = LayerAttribution.interpolate(
        values.detach(), batch.tensor.shape[-2:], interpolate_mode="bilinear"
    )
    return level, HeatMap(resized_map[0, 0, : size[0], : size[1]].cpu(), float(logits[level].mean()))


def gradcam_figures(detectors: NamedDetectors, pictures: Sequence[Picture], threshold: float) -> Iterator[Figure]:
    """Yield a figure of each image: one detection, and the Grad-CAM of each detector for it.

    The detection is the best of the first detector; without one from ``threshold`` on, the largest object of the ground
    truth that is no crowd. An image with neither is left out. The level is where the first detector's logit of the
    class is highest, and the same for all.

    Raises:
        UserError: a detector without the class, or that assigns the box to another level.
    """
    for picture in pictures:
        image = picture.read()
        target = select_target(detectors, picture, image, threshold)
        if target is not None:
            yield _figure(detectors, picture, image, target)


def select_target(
    detectors: NamedDetectors, picture: Picture, image: Tensor, threshold: float
) -> TargetDetection | None:
    """The detection to explain, or None without detection and object."""
    first = next(iter(detectors.detectors))
    detection = detectors.detect(first, image, threshold)
    if len(detection["boxes"]):
        label = detectors.classes[int(detection["labels"][0]) - 1]
        return TargetDetection(detection["boxes"][0], label, float(detection["scores"][0]), f"found by {first}")
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
    title = f"{picture.name}: Grad-CAM of '{target.label}' at {level}"
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
            raise UserError(f"{name}: has no class '{target.label}', which the detection has")
        try:
            level, heats[name] = explain(
                loaded.detector, image, target.box, loaded.classes.index(target.label) + 1, level
            )
        except UserError as error:
            raise UserError(f"{name}: {error}; compare detectors of one kind with one input size") from None
    return str(level), heats


def _overlay(photo: Image.Image, heat: Tensor) -> Image.Image:
    """The photograph in grey below the colours of ``heat``, 0..1, more opaque where it is higher."""
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    values = np.asarray(Image.fromarray(heat.float().numpy()).resize(photo.size, Image.Resampling.BILINEAR))
    opacity = (_OPACITY[0] + values.clip(0, 1) * (_OPACITY[1] - _OPACITY[0]))[..., None]
    return Image.fromarray((grey * (1 - opacity) + heat_colors(values) * opacity).round().astype(np.uint8))
