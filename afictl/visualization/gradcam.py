"""Grad-CAM of one detection for several detectors: where each looks, at the same pyramid level, on one colour scale.

Grad-CAM (Selvaraju et al., https://arxiv.org/abs/1610.02391) is captum's. Its layer is what the neck hands to the head
at one level, its score the mean of the class logits that answer for a fixed box at that level (``box_class_logits``).
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
from afictl.visualization.contenders import Contenders
from afictl.visualization.detections import drawn_size, outlined
from afictl.visualization.figure import Figure, Panel, text_size
from afictl.visualization.pictures import Picture

_VEIL = (0.3, 0.75)  # opacity of the colours where there is no heat, and where there is most


class Probe(nn.Module):
    """A detector as captum takes it: normalised images in, one number out, each level of the pyramid a layer.

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

    def evidence(self, images: Tensor) -> dict[str, Tensor]:
        """The logits that answer for the box, by level, from (1, 3, H, W)."""
        maps = self.detector.neck(self.detector.backbone(images))
        tapped = {level: self.levels[level](value) for level, value in maps.items()}
        head = self.detector.head
        if not isinstance(head, HeadWithClassLogits):
            raise UserError(f"{self.detector.preset.name}: Grad-CAM needs a head with class logits for a given box")
        return head.box_class_logits(ImageBatch(images, self.sizes), tapped, self.box, self.label)

    def forward(self, images: Tensor, level: str) -> Tensor:
        """Mean logit at ``level``, (1,)."""
        return self.evidence(images)[level].mean()[None]


@dataclass(frozen=True)
class Target:
    """The detection that is explained."""

    box: Tensor
    """(4,) xyxy in pixels of the image."""
    label: str
    score: float | None
    """None for an object of the ground truth."""
    source: str
    """Who found it."""


@dataclass(frozen=True)
class Heat:
    """Grad-CAM of one detector."""

    values: Tensor
    """(h, w), from 0 on, in pixels of the image as the detector sees it."""
    logit: float


def explain(detector: Detector, image: Tensor, box: Tensor, label: int, level: str | None = None) -> tuple[str, Heat]:
    """Grad-CAM of ``box`` and class ``label`` at ``level``, or where the class is strongest, and that level.

    Args:
        detector: in eval mode.
        image: uint8 (3, H, W) RGB.
        box: (4,) xyxy in its pixels.
        label: 1..K.

    Raises:
        UserError: no logit of this level answers for the box.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    seen = resize_for(detector.input, image)
    size = (seen.shape[1], seen.shape[2])
    batch = detector.batch([seen])
    moved = move_boxes(box[None].float(), (image.shape[1], image.shape[2]), size)[0].to(batch.tensor.device)
    probe = Probe(detector, batch.sizes, moved, label)
    with torch.no_grad():
        found = probe.evidence(batch.tensor)
    level = level or max(found, key=lambda name: float(found[name].max()))
    if level not in found:
        raise UserError(f"the box lies on {'/'.join(found)} of this detector, not on {level}")
    gradcam = LayerGradCam(probe, probe.levels[level])
    values = gradcam.attribute(batch.tensor, additional_forward_args=(level,), relu_attributions=True)
    spread: Any = LayerAttribution.interpolate(values.detach(), batch.tensor.shape[-2:], interpolate_mode="bilinear")
    return level, Heat(spread[0, 0, : size[0], : size[1]].cpu(), float(found[level].mean()))


def gradcam_figures(contenders: Contenders, pictures: Sequence[Picture], threshold: float) -> Iterator[Figure]:
    """A figure of each image: one detection, and the Grad-CAM of each contender for it.

    The detection is the best that the first contender finds; without one from ``threshold`` on, the largest object of
    the ground truth that is no crowd. An image with neither is left out. The level is where the first contender's
    logit of the class is highest, and the same for all.

    Raises:
        UserError: a contender without the class, or that looks for the box at another level.
    """
    for picture in pictures:
        image = picture.read()
        target = find_target(contenders, picture, image, threshold)
        if target is not None:
            yield _figure(contenders, picture, image, target)


def find_target(contenders: Contenders, picture: Picture, image: Tensor, threshold: float) -> Target | None:
    """The detection to explain, or None where there is none."""
    first = next(iter(contenders.detectors))
    found = contenders.find(first, image, threshold)
    if len(found["boxes"]):
        label = contenders.classes[int(found["labels"][0]) - 1]
        return Target(found["boxes"][0], label, float(found["scores"][0]), f"found by {first}")
    truth = picture.ground_truth()
    if truth is None or truth["crowd"].all():
        return None
    boxes, labels = (truth[key][~truth["crowd"]] for key in ("boxes", "labels"))
    largest = int((boxes[:, 2:] - boxes[:, :2]).prod(dim=1).argmax())
    return Target(boxes[largest], contenders.classes[int(labels[largest]) - 1], None, "from the ground truth")


def _figure(contenders: Contenders, picture: Picture, image: Tensor, target: Target) -> Figure:
    level, heats = _heats(contenders, image, target)
    highest = max(float(heat.values.max()) for heat in heats.values()) or 1.0
    size = drawn_size((image.shape[1], image.shape[2]))
    small = Image.fromarray(resize_image(image, size).permute(1, 2, 0).numpy())
    box = move_boxes(target.box[None], (image.shape[1], image.shape[2]), size)[0].tolist()
    score = "" if target.score is None else f" {target.score:.2f}"
    panels = [Panel(outlined(small, box), f"{target.label}{score}", target.source)]
    panels += [
        Panel(outlined(_veiled(small, heat.values / highest), box), name, _note(heat)) for name, heat in heats.items()
    ]
    title = f"{picture.name}: Grad-CAM of '{target.label}' at {level}"
    stride = next(iter(contenders.detectors.values())).detector.neck.strides[level]
    text = (
        f"What speaks for the class of the box in the map {level} (stride {stride}) that the head reads. Box, level "
        "and colour scale are the same for all; the logit is what each head gives to the class there."
    )
    strip = scale_strip(text_size(small.size), highest, "Grad-CAM")
    return Figure(f"{picture.name}-gradcam", panels, title, text, strip=strip)


def _note(heat: Heat) -> str:
    nothing = "" if heat.values.any() else ", nothing speaks for it"
    return f"logit {heat.logit:.2f}{nothing}"


def _heats(contenders: Contenders, image: Tensor, target: Target) -> tuple[str, dict[str, Heat]]:
    level: str | None = None
    heats: dict[str, Heat] = {}
    for name, loaded in contenders.detectors.items():
        if target.label not in loaded.classes:
            raise UserError(f"{name}: does not know the class '{target.label}' of the detection")
        try:
            level, heats[name] = explain(
                loaded.detector, image, target.box, loaded.classes.index(target.label) + 1, level
            )
        except UserError as error:
            raise UserError(f"{name}: {error}; compare detectors of one kind that see images at one size") from None
    return str(level), heats


def _veiled(photo: Image.Image, heat: Tensor) -> Image.Image:
    """The photograph in grey under the colours of ``heat``, 0..1, which cover more where there is more."""
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32)
    values = np.asarray(Image.fromarray(heat.float().numpy()).resize(photo.size, Image.Resampling.BILINEAR))
    opacity = (_VEIL[0] + values.clip(0, 1) * (_VEIL[1] - _VEIL[0]))[..., None]
    return Image.fromarray((grey * (1 - opacity) + heat_colors(values) * opacity).round().astype(np.uint8))
