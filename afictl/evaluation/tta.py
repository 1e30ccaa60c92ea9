"""Multi-scale testing: an image seen at several sizes, also mirrored, and one answer from all its views.

The recipe is detectron2's (TEST.AUG, ``GeneralizedRCNNWithTTA``), here for every detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from afictl.data.transforms import Size, move_boxes, resize_image, shortest_edge, to_float
from afictl.detectors import Detector
from afictl.detectors.dense import Candidates, suppress
from afictl.errors import UserError

_SMALLEST = 8
_MASKS = ("mask_probs", "mask_scores")


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The views of an image; the defaults are detectron2's.

    Raises:
        UserError: no short side, or one below 8 pixels or above ``max_size``.
    """

    min_sizes: tuple[int, ...] = tuple(range(400, 1201, 100))
    """Short sides in pixels."""
    max_size: int = 4000
    """Long side in pixels that no view passes; one that would is made smaller."""
    flip: bool = True
    """Whether every view is also seen mirrored, left to right."""

    def __post_init__(self) -> None:
        if not self.min_sizes:
            raise UserError("multi-scale testing needs at least one short side, e.g. --tta-sizes 600,800")
        for side in self.min_sizes:
            if not _SMALLEST <= side <= self.max_size:
                raise UserError(
                    f"multi-scale testing with a short side of {side} pixels: choose {_SMALLEST} to {self.max_size}"
                )

    @property
    def flips(self) -> tuple[bool, ...]:
        """How a view is seen: as it is, and mirrored."""
        return (False, True) if self.flip else (False,)

    def sizes(self, size_hw: Size) -> list[Size]:
        """The views of an image of ``size_hw``; short sides that ``max_size`` makes equal are one view."""
        return list(dict.fromkeys(shortest_edge(size_hw, side, self.max_size) for side in self.min_sizes))


def require_multi_scale(detector: nn.Module) -> Detector:
    """The detector, if it can be tested at several scales.

    Raises:
        UserError: a module that is no ``Detector``; nothing tells how it suppresses, nor can it be asked for masks.
    """
    if not isinstance(detector, Detector):
        raise UserError(
            f"multi-scale testing needs a detector built from a preset, not a {type(detector).__name__}; "
            "torchvision's and detectron2's models have presets too, see 'afictl model list'"
        )
    return detector


@torch.no_grad()
def detect_augmented(detector: nn.Module, image: Tensor, tta: TestTimeAugmentation) -> dict[str, Tensor]:
    """Detect in all views of an image.

    The detector finds boxes in each view as it always does. These are put back into the image, pooled, and suppressed
    once per class with the detector's own ``nms_threshold`` and ``max_detections``. There is no further score
    threshold: each view has applied the detector's. (detectron2's 1e-8 here only drops the classes that a box is
    not of.) The mask of a final box is the mean of what the mask branch sees in that box in each view.

    Views are computed one size after the other, a view and its mirror image in one batch.

    Args:
        detector: in eval mode, on any device.
        image: uint8, or float in 0..1, (3, H, W) RGB; each view is resized from it once.
        tta: which views.

    Returns:
        As ``Detector.detect``, in the pixels of ``image``: ``boxes`` (n, 4) xyxy, ``labels`` (n,) in 1..K, ``scores``
        (n,) best first; with masks ``mask_probs`` (n, M, M), and with mask scoring ``mask_scores`` (n,), the mean too.

    Raises:
        UserError: as ``require_multi_scale``.
    """
    detector = require_multi_scale(detector)
    size_hw = (image.shape[-2], image.shape[-1])
    config = detector.preset.detector
    found = [each for size in tta.sizes(size_hw) for each in _find(detector, image, size, tta.flips)]
    # A single view is suppressed already. Dense heads clip boxes after that, by which they come to overlap more.
    threshold = config.nms_threshold if len(found) > 1 else 1.0
    detection = suppress(found, size_hw, threshold, config.max_detections)
    return {**detection, **_mean_masks(detector, image, detection, tta)} if detector.has_masks else detection


def _find(detector: Detector, image: Tensor, size: Size, flips: Sequence[bool]) -> list[Candidates]:
    """What is found at one size, in the pixels of ``image``."""
    size_hw = (image.shape[-2], image.shape[-1])
    detections = detector.detect(_seen(image, size, flips), masks=False)
    return [
        Candidates(move_boxes(each["boxes"], size, size_hw, flip), each["labels"], each["scores"])
        for each, flip in zip(detections, flips, strict=True)
    ]


def _mean_masks(
    detector: Detector, image: Tensor, detection: dict[str, Tensor], tta: TestTimeAugmentation
) -> dict[str, Tensor]:
    sizes = tta.sizes((image.shape[-2], image.shape[-1]))
    if not len(detection["boxes"]):
        sizes = sizes[:1]  # only to learn the shape of no masks
    views = [masks for size in sizes for masks in _masks(detector, image, size, tta.flips, detection)]
    return {name: torch.stack([masks[name] for masks in views]).mean(dim=0) for name in views[0]}


def _masks(
    detector: Detector, image: Tensor, size: Size, flips: Sequence[bool], detection: dict[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """The masks of a detection at one size, as they lie in ``image``, with their scores if they have any."""
    size_hw = (image.shape[-2], image.shape[-1])
    inside = [{**detection, "boxes": move_boxes(detection["boxes"], size_hw, size, flip)} for flip in flips]
    for each, flip in zip(detector.segment(_seen(image, size, flips), inside), flips, strict=True):
        masks: dict[str, Tensor] = {name: each[name].float() for name in _MASKS if name in each}
        if flip:
            masks["mask_probs"] = masks["mask_probs"].flip(-1)
        yield masks


def _seen(image: Tensor, size: Size, flips: Sequence[bool]) -> list[Tensor]:
    resized = to_float(resize_image(image, size))
    return [resized.flip(-1) if flip else resized for flip in flips]
