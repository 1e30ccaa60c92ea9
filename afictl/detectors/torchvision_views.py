"""Backbone, neck and head inside torchvision's detection models, as ``Detector`` calls them.

The model's own modules do the work, in the order of the model's own forward: its answers are torchvision's for the same
pixels. Left out is its transform, which resizes; ``Detector`` normalises and pads as it does.

Legend: N images, K classes without background. Every model of torchvision counts an index 0 among its classes. It is
the background of the two-stage models; RetinaNet and FCOS have a column for it that only ever learns to be silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference, paste_masks_in_image
from torchvision.ops import FeaturePyramidNetwork

from afictl.detectors.adapter import AdaptedDetector, full_precision
from afictl.detectors.class_logits import anchor_answers, evidence, point_answers, region_evidence
from afictl.detectors.detector import HeadPart, ImageBatch
from afictl.detectors.rcnn import region_parts
from afictl.detectors.targets import Target, check_targets

_LOSSES = {
    "classification": "loss_classifier",
    "bbox_regression": "loss_box_reg",
    "bbox_ctrness": "loss_centerness",
}
"""Names of the losses of RetinaNet and FCOS and ours."""


class TorchvisionDetector(AdaptedDetector):
    """A model of torchvision, which also pastes masks in its own way."""

    def paste_masks(self, mask_probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Masks bool (n, H, W) as torchvision's postprocessing makes them, where its probability is above one half.

        It grows each box by a cell of its grid and rounds it to whole pixels. The exact way of ``masks.paste_masks``
        would shift them: torchvision also trains with a cut that is half a pixel off, which its rounding mends.
        """
        pasted = torch.zeros((len(boxes), *size_hw), dtype=torch.bool, device=mask_probs.device)
        for i in range(len(boxes)):  # one at a time: all of a photograph as float32 would take gigabytes
            one = slice(i, i + 1)
            pasted[i] = paste_masks_in_image(mask_probs[one, None].float(), boxes[one].float(), size_hw)[0, 0] > 0.5
        return pasted


class BodyView:
    """The ResNet of a model.

    Args:
        name: timm's name of the network.
        net: torchvision's ResNet without its classifier.
        fpn: what reads it, from the first of its maps to ``layer4``.
    """

    def __init__(self, name: str, net: nn.Module, fpn: FeaturePyramidNetwork) -> None:
        self.name = name
        self.net = net
        widths = [block[0].in_channels for block in fpn.inner_blocks]
        levels = range(6 - len(widths), 6)
        self.channels: dict[str, int] = {f"res{i}": width for i, width in zip(levels, widths, strict=True)}
        self.strides: dict[str, int] = {f"res{i}": 2**i for i in levels}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) -> the maps that the pyramid reads."""
        return dict(zip(self.channels, self.net(images).values(), strict=True))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's."""
        return self.net.parameters()

    def plain_to_net(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's or torchvision's classifier without the classifier."""
        return {name: value for name, value in tensors.items() if not name.startswith("fc.")}


class FpnView:
    """The pyramid of a model, five levels from ``finest`` on.

    Args:
        fpn: with an interpolator already.
        finest: ``p2`` or ``p3``.
    """

    size_divisor = 32

    def __init__(self, fpn: Any, finest: str) -> None:
        self._fpn = fpn
        first = int(finest[1:])
        self.strides: dict[str, int] = {f"p{i}": 2**i for i in range(first, first + 5)}
        self.channels: int = fpn.inner_blocks[0][0].out_channels
        self.enlargements = len(fpn.inner_blocks) - 1

    @property
    def interpolator(self) -> Any:
        """The module that enlarges."""
        return self._fpn.interpolator

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res*`` -> the five levels."""
        return dict(zip(self.strides, self._fpn(features).values(), strict=True))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The pyramid's with its interpolator."""
        return self._fpn.parameters()


class RegionView:
    """Proposals, boxes and masks of Faster and Mask R-CNN."""

    class_layers: tuple[str, ...] = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")

    def __init__(self, model: Any, num_classes: int) -> None:
        self._model = model
        self._num_classes = num_classes

    def __call__(
        self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in train mode, detections without masks in eval mode."""
        model = self._model
        if model.training:
            targets = check_targets(targets, batch.sizes, self._num_classes, model.roi_heads.has_mask())
        with torch.autocast(batch.tensor.device.type, enabled=False):
            maps = _numbered(features)
            proposals, losses = model.rpn(ImageList(batch.tensor, batch.sizes), maps, targets)
            if model.training:
                return {**losses, **model.roi_heads(maps, proposals, batch.sizes, targets)[1]}
            return self._boxes(maps, proposals, batch.sizes)

    def _boxes(
        self, maps: dict[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """What ``roi_heads`` does in eval mode before it goes on to masks."""
        heads = self._model.roi_heads
        answers = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, proposals, sizes)))
        found = zip(*heads.postprocess_detections(*answers, proposals, sizes), strict=True)
        return [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in found]

    def segment(
        self, batch: ImageBatch, features: dict[str, Tensor], detections: Sequence[dict[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """The detections with ``mask_probs`` (n, M, M)."""
        heads = self._model.roi_heads
        boxes, labels = ([each[name] for each in detections] for name in ("boxes", "labels"))
        with torch.autocast(batch.tensor.device.type, enabled=False):
            pooled = heads.mask_roi_pool(_numbered(features), boxes, batch.sizes)
            probs = maskrcnn_inference(heads.mask_predictor(heads.mask_head(pooled)), labels)
        return [{**each, "mask_probs": own[:, 0]} for each, own in zip(detections, probs, strict=True)]

    def class_evidence(
        self, batch: ImageBatch, features: dict[str, Tensor], box: Tensor, label: int
    ) -> dict[str, Tensor]:
        """What the box head says of class ``label`` for the region ``box`` (4,), by the level it is cut from."""
        heads, boxes = self._model.roi_heads, [box[None]]
        pool, levels = heads.box_roi_pool, list(features)
        pooled = pool({str(i): features[level] for i, level in enumerate(levels)}, boxes, batch.sizes)
        level = levels[int(pool.featmap_names[int(pool.map_levels(boxes))])]
        return region_evidence(pooled, [(heads.box_head, heads.box_predictor)], label, level)

    def parts(self, features: dict[str, Tensor]) -> list[HeadPart]:
        """The parts to measure; in eval mode."""
        rpn, heads = self._model.rpn, self._model.roi_heads
        stages = [(heads.box_head, heads.box_predictor)]
        return region_parts(rpn.head, heads, stages, rpn.post_nms_top_n(), list(features.values()))


def _numbered(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """The maps as torchvision's pooling knows them, by "0", "1", ...; it leaves out the last."""
    return {str(i): value for i, value in enumerate(full_precision(features).values())}


class DenseView:
    """The head of RetinaNet and FCOS.

    Half-size images need nothing but half the anchors: both models measure boxes in sizes of their anchors, and FCOS
    takes from them also which objects a level serves.
    """

    class_layers: tuple[str, ...] = ("head.classification_head.cls_logits.",)

    def __init__(self, model: Any, num_classes: int) -> None:
        self._model = model
        self._num_classes = num_classes

    def __call__(
        self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in train mode, detections in eval mode."""
        with torch.autocast(batch.tensor.device.type, enabled=False):
            maps = list(full_precision(features).values())
            outputs = self._model.head(maps)
            anchors = self._model.anchor_generator(ImageList(batch.tensor, batch.sizes), maps)
            places = self._model.anchor_generator.num_anchors_per_location()
            counts = [value[0, 0].numel() * each for value, each in zip(maps, places, strict=True)]
            if self._model.training:
                targets = check_targets(targets, batch.sizes, self._num_classes)
                return self._losses(outputs, anchors, counts, targets)
            outputs["cls_logits"][..., 0] = -torch.inf  # no class of ours, so it shall not take a place of one
            levels = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
            split_anchors = [list(each.split(counts)) for each in anchors]
            return self._model.postprocess_detections(levels, split_anchors, batch.sizes)

    def _losses(
        self, outputs: dict[str, Tensor], anchors: list[Tensor], counts: list[int], targets: list[Target]
    ) -> dict[str, Tensor]:
        further = (counts,) if isinstance(self._model, FCOS) else ()
        losses = self._model.compute_loss(targets, outputs, anchors, *further)
        return {_LOSSES[name]: value for name, value in losses.items()}

    def class_evidence(
        self, batch: ImageBatch, features: dict[str, Tensor], box: Tensor, label: int
    ) -> dict[str, Tensor]:
        """The logits of class ``label`` that answer for ``box`` (4,).

        RetinaNet's are of the anchors that overlap it by an IoU of at least 0.5, FCOS's of the points inside it.
        """
        maps, generator = list(features.values()), self._model.anchor_generator
        logits = self._model.head(maps)["cls_logits"][0, :, label]
        (anchors,) = generator(ImageList(batch.tensor, batch.sizes), maps)
        counts = [
            value[0, 0].numel() * each for value, each in zip(maps, generator.num_anchors_per_location(), strict=True)
        ]
        answers = {}
        for level, own, places in zip(features, logits.split(counts), anchors.split(counts), strict=True):
            answers[level] = anchor_answers(own, places, box)
            if isinstance(self._model, FCOS):
                xy = (places[:, :2] + places[:, 2:]) / 2
                answers[level] = point_answers(own, xy, ((xy > box[:2]) & (xy < box[2:])).all(dim=1), box)
        return evidence(answers)

    def parts(self, features: dict[str, Tensor]) -> list[HeadPart]:
        """The one part to measure, on all levels."""
        maps = list(features.values())
        return [HeadPart("head", "all levels", lambda: self._model.head(maps), (self._model.head,))]
