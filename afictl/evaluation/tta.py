"""Test-time augmentation: merged detections of several sizes of an image, also mirrored.

The method is that of detectron2 (TEST.AUG, ``GeneralizedRCNNWithTTA``), for all detectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from afictl.data.transforms import SizeHW, move_boxes, resize_image, shortest_edge, to_float
from afictl.detectors import Detector
from afictl.detectors.dense import Candidates, suppress
from afictl.detectors.head import Detections, FeatureMaps
from afictl.detectors.image_memory import device_memory, require_memory
from afictl.errors import UserError
from afictl.evaluation.views import require_detector

_MIN_SIDE_PX = 8
_MASK_KEYS = ("mask_probs", "mask_scores")
_MEMORY_SHARE = 1 / 8
"""Of the device's memory that the pyramids of all views may take between the detection and the masks."""


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image; the defaults are those of detectron2.

    Raises:
        UserError: no short side, or one outside 8 .. ``max_size`` pixels.
    """

    min_sizes: tuple[int, ...] = tuple(range(400, 1201, 100))
    """Short sides in pixels."""
    max_size: int = 4000
    """Maximum long side in pixels, to which larger views are reduced."""
    flip: bool = True
    """Whether to add a horizontally mirrored view of each size."""

    def __post_init__(self) -> None:
        if not self.min_sizes:
            raise UserError("multi-scale testing needs at least one short side, e.g. --tta-sizes 600,800")
        for side in self.min_sizes:
            if not _MIN_SIDE_PX <= side <= self.max_size:
                raise UserError(
                    f"multi-scale testing with a short side of {side} pixels: choose {_MIN_SIDE_PX} to {self.max_size}"
                )

    @property
    def flips(self) -> tuple[bool, ...]:
        """Whether each view of a size is mirrored."""
        return (False, True) if self.flip else (False,)

    def sizes(self, size_hw: SizeHW, square: bool = False) -> list[SizeHW]:
        """Sizes of the views of an image of ``size_hw``; those that ``max_size`` makes equal are one view.

        With ``square`` they are squares, as for a detector with ``input.square``.
        """
        size_hw = (1, 1) if square else size_hw
        return list(dict.fromkeys(shortest_edge(size_hw, side, self.max_size) for side in self.min_sizes))

    def settings(self) -> dict[str, object]:
        """See ``Views``."""
        return {"tta": asdict(self)}

    def detect(self, detector: Detector, image: Tensor) -> Detections:
        """See ``Views``; ``detect_augmented``."""
        return detect_augmented(detector, image, self)


@torch.no_grad()
def detect_augmented(detector: nn.Module, image: Tensor, tta: TestTimeAugmentation) -> dict[str, Tensor]:
    """Detect in all views of an image.

    The boxes of all views are mapped to the image and merged by NMS per class with ``nms_threshold`` and
    ``max_detections`` of the detector, whose score threshold is applied in each view (the 1e-8 of detectron2 only drops
    the other classes of a box). Mask probabilities and mask scores of a box are means over all views. A view and its
    mirrored view are one batch.

    Args:
        detector: detector in eval mode, on any device.
        image: (3, H, W) RGB, uint8 or float in 0..1.
        tta: views of the image.

    Returns:
        Detection as of ``Detector.detect`` in pixels of ``image``: ``boxes`` (n, 4) xyxy, ``labels`` (n,) in 1..K,
        ``scores`` (n,) best first; with masks ``mask_probs`` (n, M, M), and with mask scoring ``mask_scores`` (n,).

    Raises:
        UserError: as ``require_detector``, or too little memory for the largest view.
    """
    detector = require_detector(detector, "multi-scale testing")
    size_hw = (image.shape[-2], image.shape[-1])
    device = next(detector.parameters()).device
    require_memory(detector.preset, len(tta.flips), max(tta.min_sizes), device, "--tta-sizes")
    config, sizes = detector.preset.detector, tta.sizes(size_hw, detector.input.square)
    pyramids = _Pyramids(detector, device_memory(device) * _MEMORY_SHARE)
    views = [view for size in sizes for view in _detect_views(pyramids, image, size, tta.flips)]
    # Not for a single view, after NMS: dense heads clip boxes after NMS, which increases their overlaps.
    threshold = config.nms_threshold if len(views) > 1 else 1.0
    detection = suppress(views, size_hw, threshold, config.max_detections)
    return {**detection, **_mean_masks(pyramids, image, detection, tta)} if detector.has_masks else detection


class _Pyramids:
    """Pyramids of the views of an image, computed once as far as they fit into ``size`` bytes."""

    def __init__(self, detector: Detector, size: float) -> None:
        self.detector = detector
        self._bytes = size
        self._features: dict[SizeHW, FeatureMaps] = {}

    def features(self, views: Sequence[Tensor], size: SizeHW) -> FeatureMaps:
        """The maps of the views of one size."""
        if size in self._features:
            return self._features[size]
        features = self.detector.pyramid(views)
        self._bytes -= sum(value.nbytes for value in features.values())
        if self.detector.has_masks and self._bytes >= 0:
            self._features[size] = features
        return features


def _detect_views(pyramids: _Pyramids, image: Tensor, size: SizeHW, flips: Sequence[bool]) -> list[Candidates]:
    """Detections of the views of one size, in pixels of ``image``."""
    size_hw = (image.shape[-2], image.shape[-1])
    views = _resize_and_flip(image, size, flips)
    detections = pyramids.detector.detect(views, masks=False, features=pyramids.features(views, size))
    return [
        Candidates(move_boxes(detection["boxes"], size, size_hw, flip), detection["labels"], detection["scores"])
        for detection, flip in zip(detections, flips, strict=True)
    ]


def _mean_masks(
    pyramids: _Pyramids, image: Tensor, detection: dict[str, Tensor], tta: TestTimeAugmentation
) -> dict[str, Tensor]:
    sizes = tta.sizes((image.shape[-2], image.shape[-1]), pyramids.detector.input.square)
    if not len(detection["boxes"]):
        sizes = sizes[:1]  # only for the shape of empty masks
    views = [masks for size in sizes for masks in _masks(pyramids, image, size, tta.flips, detection)]
    return {name: torch.stack([masks[name] for masks in views]).mean(dim=0) for name in views[0]}


def _masks(
    pyramids: _Pyramids, image: Tensor, size: SizeHW, flips: Sequence[bool], detection: dict[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield the masks and mask scores of a detection in each view of one size, flipped back."""
    size_hw = (image.shape[-2], image.shape[-1])
    in_views = [{**detection, "boxes": move_boxes(detection["boxes"], size_hw, size, flip)} for flip in flips]
    views = _resize_and_flip(image, size, flips)
    segmentations = pyramids.detector.segment(views, in_views, pyramids.features(views, size))
    for segmented, flip in zip(segmentations, flips, strict=True):
        masks: dict[str, Tensor] = {key: segmented[key].float() for key in _MASK_KEYS if key in segmented}
        if flip:
            masks["mask_probs"] = masks["mask_probs"].flip(-1)
        yield masks


def _resize_and_flip(image: Tensor, size: SizeHW, flips: Sequence[bool]) -> list[Tensor]:
    resized = to_float(resize_image(image, size))
    return [resized.flip(-1) if flip else resized for flip in flips]
