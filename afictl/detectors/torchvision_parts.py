"""Parts of torchvision's detection models, as ``Detector`` calls them.

The model's own modules compute, in the order of the model's own forward: the numbers are torchvision's for the same
pixels. Left out is its transform, which resizes; ``Detector`` normalises and pads as it does.

Legend: N images, K classes without background. Every model of torchvision counts an index 0 among its classes. It is
the background of the two-stage models; RetinaNet and FCOS have a column of logits for it that no label trains up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from afictl.detectors.adapter import AdaptedDetector
from afictl.detectors.class_logits import anchor_logits, matching_logits, point_logits, region_logits
from afictl.detectors.head import Detections, FeatureMaps, HeadPart, ImageBatch, Losses, Target
from afictl.detectors.rcnn import two_stage_parts
from afictl.detectors.views import BackboneView, NeckView, full_precision

_LOSS_NAMES = {
    "classification": "loss_classifier",
    "bbox_regression": "loss_box_reg",
    "bbox_ctrness": "loss_centerness",
}
"""Losses of torchvision's RetinaNet and FCOS, and their names in afictl."""


class TorchvisionDetector(AdaptedDetector):
    """A model of torchvision; masks are pasted as torchvision pastes them."""

    def paste_masks(self, mask_probs: Tensor, boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Masks bool (n, H, W) as from torchvision's postprocessing, where the probability is above one half.

        It grows each box by a cell of its grid and rounds it to whole pixels. The exact way of ``masks.paste_masks``
        would shift them: torchvision also trains with a cut that is half a pixel off, which its rounding compensates.
        """
        pasted = torch.zeros((len(boxes), *size_hw), dtype=torch.bool, device=mask_probs.device)
        for i in range(len(boxes)):  # one at a time: all of a photograph as float32 would take gigabytes
            one = slice(i, i + 1)
            pasted[i] = paste_masks_in_image(mask_probs[one, None].float(), boxes[one].float(), size_hw)[0, 0] > 0.5
        return pasted


class ResNetView(BackboneView):
    """The ResNet of a model.

    Args:
        name: timm's name of the network.
        net: torchvision's ResNet without its classifier.
        fpn: the pyramid on it, from the first of its maps to ``layer4``.
    """

    def __init__(self, name: str, net: nn.Module, fpn: FeaturePyramidNetwork) -> None:
        widths = [block[0].in_channels for block in fpn.inner_blocks]
        levels = range(6 - len(widths), 6)
        channels = {f"res{i}": width for i, width in zip(levels, widths, strict=True)}
        super().__init__(name, net, channels, {f"res{i}": 2**i for i in levels})

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Normalised images (N, 3, H, W) -> the maps that the pyramid reads."""
        return dict(zip(self.channels, self.net(images).values(), strict=True))

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's or torchvision's classifier without its last layer."""
        return {name: value for name, value in tensors.items() if not name.startswith("fc.")}


class FPNView(NeckView):
    """The pyramid of a model, five levels from p``finest`` on.

    Args:
        fpn: with an interpolator already.
        finest: 2 or 3.
    """

    def __init__(self, fpn: FeaturePyramidNetwork, finest: int) -> None:
        strides = {f"p{i}": 2**i for i in range(finest, finest + 5)}
        super().__init__(fpn, fpn.inner_blocks[0][0].out_channels, strides, len(fpn.inner_blocks) - 1, 32)

    def __call__(self, features: Mapping[str, Tensor]) -> FeatureMaps:
        """``res*`` -> the five levels."""
        return dict(zip(self.strides, self._pyramid(features).values(), strict=True))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the pyramid, those of the interpolator among them."""
        return self._pyramid.parameters()


class TorchvisionRegionHead:
    """Proposals, boxes and masks of Faster and Mask R-CNN.

    Args:
        rpn: the proposal network of the model.
        roi_heads: its region heads.
    """

    class_layers: tuple[str, ...] = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")

    def __init__(self, rpn: RegionProposalNetwork, roi_heads: RoIHeads) -> None:
        self._rpn = rpn
        self._heads = roi_heads

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of the proposals and of the region heads."""
        with full_precision(features) as maps:
            maps = _numbered(maps)
            proposals, losses = self._rpn(ImageList(batch.tensor, batch.sizes), maps, targets)
            return {**losses, **self._heads(maps, proposals, batch.sizes, targets)[1]}

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections without masks: what ``roi_heads`` computes in eval mode before its masks."""
        heads, sizes = self._heads, batch.sizes
        with full_precision(features) as maps:
            maps = _numbered(maps)
            proposals, _ = self._rpn(ImageList(batch.tensor, sizes), maps)
            outputs = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, proposals, sizes)))
            detections = zip(*heads.postprocess_detections(*outputs, proposals, sizes), strict=True)
        return [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, scores, labels in detections]

    def segment(self, batch: ImageBatch, features: FeatureMaps, detections: Sequence[Detections]) -> list[Detections]:
        """The detections with ``mask_probs`` (n, M, M)."""
        heads = self._heads
        boxes, labels = ([detection[name] for detection in detections] for name in ("boxes", "labels"))
        with full_precision(features) as maps:
            pooled = heads.mask_roi_pool(_numbered(maps), boxes, batch.sizes)
            probs = maskrcnn_inference(heads.mask_predictor(heads.mask_head(pooled)), labels)
        return [{**detection, "mask_probs": prob[:, 0]} for detection, prob in zip(detections, probs, strict=True)]

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The box head's logit of class ``label`` for the region ``box`` (4,), by the level it is pooled from."""
        heads, boxes = self._heads, [box[None]]
        pool, levels = cast(MultiScaleRoIAlign, heads.box_roi_pool), list(features)
        pooled = pool(_numbered(features), boxes, batch.sizes)
        level = levels[int(pool.featmap_names[int(pool.map_levels(boxes))])]
        return region_logits(pooled, [(heads.box_head, heads.box_predictor)], label, level)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """Proposals on all of ``features``, boxes and masks on the largest number of regions."""
        stages = [(self._heads.box_head, self._heads.box_predictor)]
        maps = list(features.values())
        return two_stage_parts(self._rpn.head, self._heads, stages, self._rpn.post_nms_top_n(), maps)


def _numbered(maps: FeatureMaps) -> FeatureMaps:
    """The maps under the names of torchvision's pooling, "0", "1", ...; it does not pool from the last."""
    return {str(i): value for i, value in enumerate(maps.values())}


class TorchvisionDenseHead:
    """The head of RetinaNet or FCOS.

    Half-size images need nothing but half the anchors: both models measure boxes in sizes of their anchors, and FCOS
    also takes from them which objects a level predicts.
    """

    class_layers: tuple[str, ...] = ("head.classification_head.cls_logits.",)

    def __init__(self, model: RetinaNet | FCOS) -> None:
        self._model = model

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of all anchors."""
        with full_precision(features) as maps:
            outputs, anchors, counts = self._outputs(batch, list(maps.values()))
            arguments = (counts,) if isinstance(self._model, FCOS) else ()
            losses = self._model.compute_loss(targets, outputs, anchors, *arguments)
        return {_LOSS_NAMES[name]: value for name, value in losses.items()}

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections of the best anchors."""
        with full_precision(features) as maps:
            outputs, anchors, counts = self._outputs(batch, list(maps.values()))
            outputs["cls_logits"][..., 0] = -torch.inf  # index 0 is no class: it must not displace one
            levels = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
            return self._model.postprocess_detections(levels, [list(a.split(counts)) for a in anchors], batch.sizes)

    def _outputs(self, batch: ImageBatch, maps: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """The head's outputs, the anchors of each image, and the number of anchors of each level."""
        generator = self._model.anchor_generator
        outputs, anchors = self._model.head(maps), generator(ImageList(batch.tensor, batch.sizes), maps)
        per_position = generator.num_anchors_per_location()
        return outputs, anchors, [m[0, 0].numel() * count for m, count in zip(maps, per_position, strict=True)]

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The logits of class ``label`` for ``box`` (4,).

        RetinaNet's are of the anchors that overlap it by an IoU of at least 0.5, FCOS's of the points inside it.
        """
        outputs, (anchors,), counts = self._outputs(batch, list(features.values()))
        logits = outputs["cls_logits"][0, :, label].split(counts)
        levels = {}
        for level, column, boxes in zip(features, logits, anchors.split(counts), strict=True):
            if isinstance(self._model, FCOS):
                xy = (boxes[:, :2] + boxes[:, 2:]) / 2
                levels[level] = point_logits(column, xy, ((xy > box[:2]) & (xy < box[2:])).all(dim=1), box)
            else:
                levels[level] = anchor_logits(column, boxes, box)
        return matching_logits(levels)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """The complete head on all levels."""
        maps = list(features.values())
        return [HeadPart("head", "all levels", lambda: self._model.head(maps), (self._model.head,))]
