"""Detection in overlapping tiles of an image, for small objects in large images.

As slicing aided hyper inference (https://arxiv.org/abs/2202.06934), with another rule for objects that a tile cuts; see
``tile_merging``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from afictl.data.tiles import Tile, Tiling
from afictl.data.transforms import resize_for
from afictl.detectors import Detector, to_original
from afictl.detectors.head import Detections
from afictl.detectors.image_memory import require_memory
from afictl.evaluation.tile_merging import merge_tiles
from afictl.evaluation.views import require_detector


@dataclass(frozen=True)
class Slicing:
    """Tiles of an image, and the whole image."""

    tiling: Tiling
    whole_image: bool = True
    """Whether to detect in the whole image as well."""
    batch_size: int = 1
    """Tiles per forward pass."""

    def settings(self) -> dict[str, object]:
        """See ``Views``."""
        tiling = self.tiling
        return {"slice": {"size": tiling.size, "overlap": tiling.overlap, "whole_image": self.whole_image}}

    def detect(self, detector: Detector, image: Tensor) -> Detections:
        """See ``Views``; ``detect_sliced``."""
        return detect_sliced(detector, image, self)


@torch.no_grad()
def detect_sliced(detector: Detector, image: Tensor, slicing: Slicing) -> Detections:
    """Detect in the tiles of an image, and merge the detections.

    A tile is resized as an image of its size: its short side becomes ``input.test_size``. An image within one tile is
    detected in once, as without tiles. ``batch_size`` tiles are in the memory of the device at a time; the detections
    of all are kept until they are merged by ``merge_tiles``, with ``nms_threshold`` and ``max_detections`` of the
    detector.

    Args:
        detector: in eval mode, on any device.
        image: (3, H, W) RGB, uint8 or float in 0..1.
        slicing: the tiles.

    Returns:
        Detection as of ``Detector.detect`` in pixels of ``image``, with ``mask_probs`` if the detector has masks.

    Raises:
        UserError: as ``require_detector``, or too little memory for the tiles of a batch.
    """
    detector = require_detector(detector, "detection in tiles")
    size_hw = (image.shape[-2], image.shape[-1])
    tiles = slicing.tiling.tiles(size_hw)
    side = min(detector.input.test_size, detector.input.max_size)
    count = min(slicing.batch_size, len(tiles))
    require_memory(detector.preset, count, side, next(detector.parameters()).device, "--batch-size or input.test_size")
    whole = Tile(0, 0, size_hw[1], size_hw[0])
    if len(tiles) == 1:
        return next(_detect_tiles(detector, image, tiles))
    batches = [tiles[k : k + slicing.batch_size] for k in range(0, len(tiles), slicing.batch_size)]
    if slicing.whole_image:
        batches.append([whole])
        tiles = [*tiles, whole]
    detections = [detection for batch in batches for detection in _detect_tiles(detector, image, batch)]
    config = detector.preset.detector
    return merge_tiles(detections, tiles, size_hw, config.nms_threshold, config.max_detections)


def _detect_tiles(detector: Detector, image: Tensor, tiles: list[Tile]) -> Iterator[Detections]:
    """Yield the detections of tiles of one size, each in pixels of its tile."""
    device = next(detector.parameters()).device
    views = [image[:, tile.top : tile.bottom, tile.left : tile.right] for tile in tiles]
    resized = [resize_for(detector.input, view.to(device)) for view in views]
    for detection, view, small in zip(detector.detect(resized), views, resized, strict=True):
        yield to_original(detection, (small.shape[1], small.shape[2]), (view.shape[1], view.shape[2]))
