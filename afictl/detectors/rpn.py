"""Region proposals: torchvision's network with detectron2's selection rule and losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import clip_boxes_to_image

from afictl.detectors.anchors import FixedStrideAnchors
from afictl.detectors.sampling import ImageSampler
from afictl.detectors.suppression import grouped_nms
from afictl.presets.architecture import ProposalConfig
from afictl.total_batch import loss_divisor


def build_rpn(config: ProposalConfig, channels: int, strides: Mapping[str, int]) -> ProposalNetwork:
    """Proposal network on maps of ``channels`` channels at ``strides`` (level name to pixels)."""
    anchors = FixedStrideAnchors(
        config.anchor_sizes, config.anchor_ratios, list(strides.values()), config.anchors_per_octave
    )
    network = ProposalNetwork(
        anchors,
        _ProposalHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.rpn_batch,
        positive_fraction=0.5,
        pre_nms_top_n={
            "training": config.proposals_before_nms_train,
            "testing": config.proposals_before_nms_test,
        },
        post_nms_top_n={"training": config.proposals_train, "testing": config.proposals_test},
        nms_thresh=0.7,
    )
    network.fg_bg_sampler = ImageSampler(config.rpn_batch, network.fg_bg_sampler.positive_fraction)
    return network


def nonempty(boxes: Tensor) -> Tensor:
    """Whether each of the boxes (..., 4) has width and height; False for NaN."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


class _ProposalHead(RPNHead):
    """torchvision's head; its outputs are float32 under autocast too, for the box arithmetic that follows."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [logit.float() for logit in logits], [delta.float() for delta in deltas]


class ProposalNetwork(RegionProposalNetwork):
    """``(images, features, targets) -> (boxes of each image, losses)``, see torchvision."""

    @property
    def proposals_test(self) -> int:
        """Largest number of proposals of an image in eval mode."""
        return self._post_nms_top_n["testing"]

    @torch.no_grad()
    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Best proposals of each image, and their logits, best first.

        Ranked by logit, because sigmoids of close logits tie in float32; boxes are dropped only when they are
        empty, as in detectron2 (torchvision: below 1e-3 px).

        Args:
            proposals: (N, anchors, 4) pixels.
            objectness: (N * anchors, 1) logits.
            image_shapes: height and width of each image without its padding.
            num_anchors_per_level: sums to ``anchors``.
        """
        logits = objectness.reshape(len(proposals), -1)
        levels = torch.cat(
            [logits.new_full((count,), level, dtype=torch.int64) for level, count in enumerate(num_anchors_per_level)]
        )
        top = self._get_top_n_idx(logits, num_anchors_per_level)
        selection = [
            self._suppress(boxes[index], scores[index], levels[index], shape)
            for boxes, scores, index, shape in zip(proposals, logits, top, image_shapes, strict=True)
        ]
        return [boxes for boxes, _ in selection], [scores for _, scores in selection]

    def _suppress(self, boxes: Tensor, scores: Tensor, levels: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        boxes = clip_boxes_to_image(boxes, shape)
        valid = nonempty(boxes)
        boxes, scores, levels = boxes[valid], scores[valid], levels[valid]
        indices = grouped_nms(boxes, scores, levels, self.nms_thresh)[: self.post_nms_top_n()]
        return boxes[indices], scores[indices]

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy and L1 of the sampled anchors, summed and divided by ``rpn_batch * N``, N of all ranks.

        detectron2 divides by the nominal size of the sample, torchvision by its actual size; detectron2's box loss is
        L1, torchvision's smooth L1 with beta 1/9.
        """
        positives, negatives = (torch.cat(mask).bool() for mask in self.fg_bg_sampler(labels))
        targets, target_deltas = torch.cat(labels), torch.cat(list(regression_targets))
        sample = positives | negatives
        nominal = loss_divisor(self.fg_bg_sampler.batch_size_per_image * len(labels), objectness)
        class_loss = F.binary_cross_entropy_with_logits(objectness.flatten()[sample], targets[sample], reduction="sum")
        box_loss = F.l1_loss(pred_bbox_deltas[positives], target_deltas[positives], reduction="sum")
        return class_loss / nominal, box_loss / nominal
