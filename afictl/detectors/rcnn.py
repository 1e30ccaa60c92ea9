"""The two-stage head: propose regions, then classify, refine and (perhaps) segment each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from afictl.detectors.class_logits import region_evidence
from afictl.detectors.detector import HeadPart, ImageBatch
from afictl.detectors.roi_heads import RegionHeads
from afictl.detectors.rpn import ProposalNetwork
from afictl.detectors.targets import Target, check_targets


class RCNNHead(nn.Module):
    """Region proposal network and region heads behind the head interface of ``Detector``."""

    class_layers = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")

    def __init__(self, rpn: ProposalNetwork, roi_heads: RegionHeads, num_classes: int) -> None:
        super().__init__()
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes

    def forward(
        self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in train mode, detections without masks in eval mode."""
        if self.training:
            targets = check_targets(targets, batch.sizes, self.num_classes, self.roi_heads.has_mask())
        images = ImageList(batch.tensor, batch.sizes)
        proposals, proposal_losses = self.rpn(images, features, targets)
        detections, losses = self.roi_heads(features, proposals, batch.sizes, targets)
        return {**proposal_losses, **losses} if self.training else detections

    def segment(
        self, batch: ImageBatch, features: dict[str, Tensor], detections: Sequence[dict[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """The detections with ``mask_probs`` (n, M, M), for a head with a mask branch."""
        return self.roi_heads.segment(features, detections, batch.sizes)

    def class_evidence(
        self, batch: ImageBatch, features: dict[str, Tensor], box: Tensor, label: int
    ) -> dict[str, Tensor]:
        """What each box head says of class ``label`` for the region ``box`` (4,), by the level it is cut from."""
        heads, boxes = self.roi_heads, [box[None]]
        pool = heads.box_roi_pool
        level = pool.featmap_names[int(pool.levels(boxes, batch.sizes))]
        return region_evidence(pool(features, boxes, batch.sizes), heads.box_stages, label, level)

    def parts(self, features: dict[str, Tensor]) -> list[HeadPart]:
        """The parts to measure: proposals on all of ``features``, boxes and masks at their most regions.

        With the defaults that is 1000 proposals and 100 masks for one image. Pooling is left out.
        """
        heads, maps = self.roi_heads, list(features.values())
        return region_parts(self.rpn.head, heads, heads.box_stages, self.rpn.proposals_test, maps)


def region_parts(
    rpn_head: nn.Module,
    heads: Any,
    box_stages: Sequence[tuple[nn.Module, nn.Module]],
    proposals: int,
    maps: list[Tensor],
) -> list[HeadPart]:
    """The parts of a two-stage head.

    Args:
        rpn_head: run on all ``maps``.
        heads: region heads of ours or of torchvision.
        box_stages: box head and predictor of each stage.
        proposals: regions that the box heads see.
    """
    channels = maps[0].shape[1]

    def box_heads() -> None:
        regions = maps[0].new_zeros((proposals, channels, *heads.box_roi_pool.output_size))
        for box_head, predictor in box_stages:
            predictor(box_head(regions))

    def mask_head() -> None:
        regions = maps[0].new_zeros((heads.detections_per_img, channels, *heads.mask_roi_pool.output_size))
        heads.mask_predictor(heads.mask_head(regions))

    times = f"{len(box_stages)} x " if len(box_stages) > 1 else ""
    parts = [
        HeadPart("rpn", "all levels", lambda: rpn_head(maps), (rpn_head,)),
        HeadPart("box head", f"{times}{proposals} regions", box_heads, (heads.box_head, heads.box_predictor)),
    ]
    if heads.has_mask():
        load = f"{heads.detections_per_img} regions"
        parts.append(HeadPart("mask head", load, mask_head, (heads.mask_head, heads.mask_predictor)))
    return parts
