"""The two-stage head: propose regions, then classify, refine and, with a mask branch, segment them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads

from afictl.detectors.class_logits import region_logits
from afictl.detectors.head import Detections, FeatureMaps, HeadPart, ImageBatch, Losses, Target
from afictl.detectors.roi_heads import RegionHeads
from afictl.detectors.rpn import ProposalNetwork

BoxStages: TypeAlias = Sequence[tuple[nn.Module, nn.Module]]
"""Box head and predictor of each stage."""


class RCNNHead(nn.Module):
    """Region proposal network and region heads as a ``Head``."""

    class_layers: tuple[str, ...] = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")

    def __init__(self, rpn: ProposalNetwork, roi_heads: RegionHeads) -> None:
        super().__init__()
        self.rpn = rpn
        self.roi_heads = roi_heads

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of the proposals and of the region heads."""
        proposals, losses = self.rpn(ImageList(batch.tensor, batch.sizes), features, targets)
        return {**losses, **self.roi_heads(features, proposals, batch.sizes, targets)[1]}

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections without masks."""
        proposals, _ = self.rpn(ImageList(batch.tensor, batch.sizes), features)
        return self.roi_heads(features, proposals, batch.sizes)[0]

    def segment(self, batch: ImageBatch, features: FeatureMaps, detections: Sequence[Detections]) -> list[Detections]:
        """The detections with ``mask_probs`` (n, M, M), for a head with a mask branch."""
        return self.roi_heads.segment(features, detections, batch.sizes)

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """Each box head's logit of class ``label`` for the region ``box`` (4,), by the level it is pooled from."""
        heads, boxes = self.roi_heads, [box[None]]
        pool = heads.box_roi_pool
        level = pool.featmap_names[int(pool.levels(boxes, batch.sizes))]
        return region_logits(pool(features, boxes, batch.sizes), heads.box_stages, label, level)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """Proposals on all of ``features``, boxes and masks on the largest number of regions.

        With the defaults that is 1000 proposals and 100 masks for one image. Pooling is left out.
        """
        heads, maps = self.roi_heads, list(features.values())
        return two_stage_parts(self.rpn.head, heads, heads.box_stages, self.rpn.proposals_test, maps)


def two_stage_parts(
    rpn_head: nn.Module, heads: RoIHeads, box_stages: BoxStages, proposals: int, maps: Sequence[Tensor]
) -> list[HeadPart]:
    """The parts of a two-stage head with the region heads ``heads``, for ``proposals`` regions."""
    parts = [rpn_part(rpn_head, maps), box_part(box_stages, maps[0], proposals, heads.box_roi_pool.output_size)]
    if heads.has_mask():
        masks = nn.Sequential(heads.mask_head, heads.mask_predictor)
        parts.append(mask_part(masks, masks, maps[0], heads.detections_per_img, heads.mask_roi_pool.output_size))
    return parts


def rpn_part(head: nn.Module, maps: Sequence[Tensor]) -> HeadPart:
    """The head of a proposal network on all ``maps``."""
    return HeadPart("rpn", "all levels", lambda: head(list(maps)), (head,))


def box_part(stages: BoxStages, like: Tensor, count: int, size: Sequence[int]) -> HeadPart:
    """Box heads and predictors on ``count`` regions of height and width ``size`` from a map ``like`` (N, C, h, w)."""

    def run() -> None:
        regions = like.new_zeros((count, like.shape[1], *size))
        for head, predictor in stages:
            predictor(head(regions))

    times = f"{len(stages)} x " if len(stages) > 1 else ""
    modules = tuple(module for stage in stages for module in stage)
    return HeadPart("box head", f"{times}{count} regions", run, modules)


def mask_part(
    head: nn.Module, layers: Callable[[Tensor], object], like: Tensor, count: int, size: Sequence[int]
) -> HeadPart:
    """The ``layers`` of a mask ``head`` on ``count`` regions of height and width ``size`` from a map ``like``."""
    shape = (count, like.shape[1], *size)
    return HeadPart("mask head", f"{count} regions", lambda: layers(like.new_zeros(shape)), (head,))
