"""A detector: pixels -> backbone -> neck -> head.

Legend: N images, H x W the batch after padding, K classes without background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from afictl.backbones import FeatureExtractor
from afictl.detectors.head import Detections, FeatureMaps, Head, HeadWithMasks, ImageBatch, Losses, Target
from afictl.detectors.masks import paste_masks
from afictl.detectors.pixels import check_images
from afictl.detectors.targets import check_targets
from afictl.errors import UserError
from afictl.necks import Neck
from afictl.presets import Preset
from afictl.total_batch import max_over_total_batch


class Detector(nn.Module):
    """A detector in torchvision's convention.

    In train mode ``detector(images, targets)`` returns a dict of named losses. In eval mode
    ``detector(images)`` returns for each image a dict with ``boxes`` (n, 4) xyxy in the pixels of the given
    image, ``labels`` (n,) in 1..K, ``scores`` (n,) best first, for a detector with masks ``masks`` bool
    (n, h, w), and for one with mask scoring ``mask_scores`` (n,) in 0..1, which rank the masks.

    It normalises and pads, and never resizes; ``afictl.predict`` also resizes.

    Args:
        preset: what the parts were built from; ``preset.input`` holds mean and standard deviation.
        backbone: (N, 3, H, W) -> ``res2..res5``.
        neck: ``res2..res5`` -> pyramid.
        head: a ``HeadWithMasks`` where ``preset.detector.masks`` is true.
        num_classes: K.

    Raises:
        UserError: the preset's detector has masks, but ``head`` has none.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, preset: Preset, backbone: FeatureExtractor, neck: Neck, head: Head, num_classes: int) -> None:
        super().__init__()
        if preset.detector.masks and not isinstance(head, HeadWithMasks):
            raise UserError(
                f"{preset.name}: detector.kind: {preset.detector.kind} has masks, {type(head).__name__} none"
            )
        self.preset = preset
        self.input = preset.input
        self.num_classes = num_classes
        self.backbone = backbone
        self.neck = neck
        self.head = head
        for name, values in (("pixel_mean", self.input.mean), ("pixel_std", self.input.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> Losses | list[Detections]:
        """Losses in train mode, detections in eval mode.

        Args:
            images: float (3, h, w), RGB in 0..1, of any sizes; an empty list gives an empty list of detections.
            targets: for each image ``boxes``, ``labels`` and, for a detector with masks, ``masks`` (n, h, w).

        Raises:
            ValueError: an image or a target of the wrong shape, type or range; it is named by its index.
        """
        if self.training:
            return self.losses_and_pyramid(images, targets)[0]
        detections = self.detect(images)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return [self._paste(*pair) for pair in zip(detections, sizes, strict=True)]

    def losses_and_pyramid(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None
    ) -> tuple[Losses, FeatureMaps]:
        """In train mode: the losses, and the neck's maps that they were computed from.

        The losses are divided by counts of the total batch: in a process group all ranks must call this.
        """
        batch = self.batch(images, across_ranks=True)
        checked = check_targets(targets, batch.sizes, self.num_classes, self.has_masks)
        features = self._pyramid(batch)
        return self.head.losses(batch, features, checked), features

    def detect(
        self, images: Sequence[Tensor], masks: bool = True, features: FeatureMaps | None = None
    ) -> list[Detections]:
        """Detections in eval mode, with ``mask_probs`` (n, M, M) on the grid of each box instead of pasted ``masks``.

        ``masks=False`` leaves the masks out, and their computation. ``features`` are those of ``pyramid`` of the
        images; they are computed where a caller has none.
        """
        self._require_eval_mode("detect")
        if not len(images):
            return []
        batch = self.batch(images)
        features = self._pyramid(batch) if features is None else features
        detections = self.head.detect(batch, features)
        return self._mask_head().segment(batch, features, detections) if masks and self.has_masks else detections

    def segment(
        self, images: Sequence[Tensor], detections: Sequence[Detections], features: FeatureMaps | None = None
    ) -> list[Detections]:
        """Detections with masks, of boxes from any source; for a detector with masks.

        Args:
            images: as in ``forward``.
            detections: for each image ``boxes`` (n, 4) in its pixels, ``labels`` (n,) and ``scores`` (n,).
            features: as in ``detect``.

        Returns:
            The same with ``mask_probs`` and, with mask scoring, ``mask_scores``, as from ``detect``.
        """
        self._require_eval_mode("segment")
        if not len(images):
            return []
        batch = self.batch(images)
        features = self._pyramid(batch) if features is None else features
        return self._mask_head().segment(batch, features, detections)

    def pyramid(self, images: Sequence[Tensor], across_ranks: bool = False) -> FeatureMaps:
        """The neck's maps of the batch, ``p2`` (N, C, H/4, W/4) and coarser; ``across_ranks`` as in ``batch``."""
        return self._pyramid(self.batch(images, across_ranks))

    def paste_masks(self, mask_probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Masks bool (n, H, W) of an image of ``size_hw`` from ``mask_probs`` (n, M, M) on the grids of ``boxes``."""
        return paste_masks(mask_probs, boxes, size_hw)

    @property
    def has_masks(self) -> bool:
        """Whether detections have masks."""
        return self.preset.detector.masks

    @property
    def interpolator_prefix(self) -> str:
        """Prefix of the names of the interpolator's tensors in the state dict."""
        return next(name for name, part in self.named_modules() if part is self.neck.interpolator) + "."

    @property
    def class_layers(self) -> tuple[str, ...]:
        """Prefixes of the names of the tensors in the state dict whose shapes depend on the classes."""
        return tuple(f"head.{prefix}" for prefix in self.head.class_layers)

    def batch(self, images: Sequence[Tensor], across_ranks: bool = False) -> ImageBatch:
        """Normalised ``images``, padded to one multiple of the neck's ``size_divisor``, on the detector's device.

        With ``across_ranks`` the padded size is that of the total batch, and all ranks must call this. The maps of
        an image depend on it near the image's edges, and with group norm everywhere.

        Raises:
            UserError: no images, or one of the wrong shape, type or range.
        """
        if not len(images):
            raise UserError("no images: a batch needs at least one")
        check_images(images)
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        largest = [max(side) for side in zip(*sizes, strict=True)]
        if across_ranks:
            largest = max_over_total_batch(largest, self.pixel_mean.device)
        divisor = self.neck.size_divisor
        height, width = (math.ceil(side / divisor) * divisor for side in largest)
        tensor = self.pixel_mean.new_zeros((len(images), 3, height, width))
        for k, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
            # not a view of ``tensor``: the gradient of an image that requires one passes through
            tensor[k, :, :h, :w] = (image.to(self.pixel_mean) - self.pixel_mean) / self.pixel_std
        return ImageBatch(tensor, sizes)

    def _require_eval_mode(self, method: str) -> None:
        if self.training:
            raise ValueError(f"{method} works in eval mode; call detector.eval() first")

    def _mask_head(self) -> HeadWithMasks:
        if not self.has_masks or not isinstance(self.head, HeadWithMasks):
            raise ValueError(f"{self.preset.name}: {self.preset.detector.kind} has no masks")
        return self.head

    def _pyramid(self, batch: ImageBatch) -> FeatureMaps:
        return self.neck(self.backbone(batch.tensor))

    def _paste(self, detections: Detections, size_hw: tuple[int, int]) -> Detections:
        """``detections`` with ``masks`` in place of ``mask_probs``, if there are any."""
        if "mask_probs" not in detections:
            return detections
        masks = self.paste_masks(detections["mask_probs"], detections["boxes"], size_hw)
        return {name: value for name, value in detections.items() if name != "mask_probs"} | {"masks": masks}
