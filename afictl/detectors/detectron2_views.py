"""Backbone, neck and head inside detectron2's R-CNNs and RetinaNet, as ``Detector`` calls them.

The model's own modules do the work, in the order of the model's own forward: its answers are detectron2's for the same
pixels. Left out is its preprocessing, which ``Detector`` does alike.

Legend: N images, K classes without background; detectron2 counts them from 0 to K - 1, and here labels are 1..K.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from afictl.backbones.detectron2_names import resnet_key
from afictl.detectors.adapter import full_precision
from afictl.detectors.class_logits import anchor_answers, evidence, region_evidence
from afictl.detectors.dense import flat
from afictl.detectors.detector import HeadPart, ImageBatch
from afictl.detectors.targets import Target, check_targets
from afictl.presets import InputConfig


class BottomUpView:
    """The bottom-up network of a model.

    Args:
        name: timm's name of the network.
        net: detectron2's network.
        levels: those that the pyramid reads.
        view: how images were normalised, in RGB order.
        bgr: whether the network takes blue, green, red.
    """

    def __init__(self, name: str, net: Any, levels: Sequence[str], view: InputConfig, bgr: bool) -> None:
        self.name = name
        self.net: nn.Module = net
        shapes = net.output_shape()
        self.channels: dict[str, int] = {level: shapes[level].channels for level in levels}
        self.strides: dict[str, int] = {level: shapes[level].stride for level in levels}
        self._view = view
        self._bgr = bgr

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W), RGB and normalised -> the maps that the pyramid reads, and any others."""
        return self.net(images.flip(1) if self._bgr else images)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The network's."""
        return self.net.parameters()

    def plain_to_net(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's ResNet classifier, made for RGB of ImageNet's mean and deviation."""
        named = {resnet_key(name): value for name, value in tensors.items() if not name.startswith("fc.")}
        stem = named.get("stem.conv1.weight")
        if stem is not None and stem.ndim == 4:
            # What the network is given has another deviation, and perhaps the other order.
            scale = torch.tensor(self._view.std) / torch.tensor(InputConfig().std)
            scaled = stem * scale.to(stem)[:, None, None]
            named["stem.conv1.weight"] = scaled.flip(1) if self._bgr else scaled
        return named


class PyramidView:
    """The pyramid of a model.

    Args:
        backbone: an ``InterpolatedFPN`` or a ``NeckBackbone``.
        pyramid: the part of it, or itself, that holds the interpolator.
        enlargements: calls of the interpolator in one forward pass.
    """

    def __init__(self, backbone: Any, pyramid: Any, enlargements: int) -> None:
        self._backbone = backbone
        self._pyramid = pyramid
        self.strides: dict[str, int] = {name: shape.stride for name, shape in backbone.output_shape().items()}
        self.channels: int = next(iter(backbone.output_shape().values())).channels
        self.size_divisor: int = backbone.size_divisibility
        self.enlargements = enlargements

    @property
    def interpolator(self) -> Any:
        """The module that enlarges."""
        return self._pyramid.interpolator

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res*`` -> the levels."""
        return self._backbone.pyramid(features)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The pyramid's with its interpolator."""
        for name, value in self._backbone.named_parameters():
            if not name.startswith("bottom_up."):
                yield value


class _HeadView:
    """What the heads of both kinds share."""

    unsaved: tuple[str, ...] = ()
    """Tensors that detectron2 does not save, relative to the model."""

    def __init__(self, model: Any, num_classes: int, masks: bool) -> None:
        self._model = model
        self._num_classes = num_classes
        self._masks = masks

    def __call__(
        self, batch: ImageBatch, features: dict[str, Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in train mode, detections without masks in eval mode."""
        images = ImageList(batch.tensor, batch.sizes)
        with torch.autocast(batch.tensor.device.type, enabled=False):
            maps = full_precision(features)
            if not self._model.training:
                return [_detection(each) for each in self._detect(images, maps)]
            targets = check_targets(targets, batch.sizes, self._num_classes, self._masks)
            objects = [self._instances(*pair, images.tensor.device) for pair in zip(targets, batch.sizes, strict=True)]
            with EventStorage():  # detectron2 counts on the way and wants a place for it
                return self._losses(images, maps, objects)

    def _instances(self, target: Target, size_hw: tuple[int, int], device: torch.device) -> Instances:
        objects = Instances(size_hw)
        objects.gt_boxes = Boxes(target["boxes"].to(device))
        objects.gt_classes = target["labels"].to(device) - 1
        if self._masks:
            objects.gt_masks = BitMasks(target["masks"].to(device, torch.bool))
        return objects

    def _losses(self, images: ImageList, maps: dict[str, Tensor], objects: list[Instances]) -> dict[str, Tensor]:
        raise NotImplementedError

    def _detect(self, images: ImageList, maps: dict[str, Tensor]) -> list[Instances]:
        raise NotImplementedError


class RegionView(_HeadView):
    """Proposals, boxes and masks of an R-CNN, also in cascade."""

    class_layers: tuple[str, ...] = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")

    def _losses(self, images: ImageList, maps: dict[str, Tensor], objects: list[Instances]) -> dict[str, Tensor]:
        proposals, losses = self._model.proposal_generator(images, maps, objects)
        return {**losses, **self._model.roi_heads(images, maps, proposals, objects)[1]}

    def _detect(self, images: ImageList, maps: dict[str, Tensor]) -> list[Instances]:
        proposals, _ = self._model.proposal_generator(images, maps, None)
        return self._model.roi_heads._forward_box(maps, proposals)  # what it does in eval mode before masks

    def segment(
        self, batch: ImageBatch, features: dict[str, Tensor], detections: Sequence[dict[str, Tensor]]
    ) -> list[dict[str, Tensor]]:
        """The detections with ``mask_probs`` (n, M, M)."""
        found = [
            Instances(size, pred_boxes=Boxes(each["boxes"]), pred_classes=each["labels"] - 1)
            for each, size in zip(detections, batch.sizes, strict=True)
        ]
        with torch.autocast(batch.tensor.device.type, enabled=False):
            answers = self._model.roi_heads.forward_with_given_boxes(full_precision(features), found)
        return [{**each, "mask_probs": own.pred_masks[:, 0]} for each, own in zip(detections, answers, strict=True)]

    def class_evidence(
        self, batch: ImageBatch, features: dict[str, Tensor], box: Tensor, label: int
    ) -> dict[str, Tensor]:
        """What each box head says of class ``label`` for the region ``box`` (4,), by the level it is cut from."""
        del batch  # other heads look at its sizes
        heads, boxes = self._model.roi_heads, [Boxes(box[None])]
        pooler, names = heads.box_pooler, heads.box_in_features
        bounds = pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
        level = names[int(assign_boxes_to_levels(boxes, *bounds))]
        pooled = pooler([features[name] for name in names], boxes)
        return region_evidence(pooled, list(zip(*self._stages(), strict=True)), label - 1, level)

    def _stages(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The box heads that every region passes, and the predictor of each."""
        heads = self._model.roi_heads
        if isinstance(heads.box_head, nn.ModuleList):
            return list(heads.box_head), list(heads.box_predictor)
        return [heads.box_head], [heads.box_predictor]

    def parts(self, features: dict[str, Tensor]) -> list[HeadPart]:
        """The parts to measure, boxes and masks at their most regions; in eval mode."""
        heads, rpn = self._model.roi_heads, self._model.proposal_generator
        some = next(iter(features.values()))
        stages: Any = self._stages()
        proposals, found = rpn.post_nms_topk[False], stages[1][0].test_topk_per_image

        def regions(count: int, pooler: Any) -> Tensor:
            return some.new_zeros((count, some.shape[1], *pooler.output_size))

        def boxes() -> None:
            for box_head, predictor in zip(*stages, strict=True):
                predictor(box_head(regions(proposals, heads.box_pooler)))

        times = f"{len(stages[0])} x " if len(stages[0]) > 1 else ""
        maps = [features[name] for name in rpn.in_features]
        parts = [
            HeadPart("rpn", "all levels", lambda: rpn.rpn_head(maps), (rpn.rpn_head,)),
            HeadPart("box head", f"{times}{proposals} regions", boxes, (heads.box_head, heads.box_predictor)),
        ]
        if self._masks:
            run = lambda: heads.mask_head.layers(regions(found, heads.mask_pooler))  # noqa: E731
            parts.append(HeadPart("mask head", f"{found} regions", run, (heads.mask_head,)))
        return parts


class DenseView(_HeadView):
    """The head of a RetinaNet.

    detectron2 divides its losses by a running mean of the number of positive anchors, which it keeps outside the
    state dict; here it is a buffer, so that resumed training goes on with it.
    """

    class_layers: tuple[str, ...] = ("head.cls_score.",)
    unsaved: tuple[str, ...] = ("loss_normalizer",)

    def __init__(self, model: Any, num_classes: int, masks: bool) -> None:
        super().__init__(model, num_classes, masks)
        model.register_buffer("loss_normalizer", torch.tensor(100.0))  # where detectron2's mean begins

    def _losses(self, images: ImageList, maps: dict[str, Tensor], objects: list[Instances]) -> dict[str, Tensor]:
        used = self._used(maps)
        # TorchScript rewrites detectron2's focal loss after its first calls, and with it the last bits of a step.
        with torch.jit.optimized_execution(False):
            return self._model.forward_training(images, used, self._model.head(used), objects)

    def _detect(self, images: ImageList, maps: dict[str, Tensor]) -> list[Instances]:
        used = self._used(maps)
        return self._model.forward_inference(images, used, self._model.head(used))

    def _used(self, maps: dict[str, Tensor]) -> list[Tensor]:
        return [maps[name] for name in self._model.head_in_features]

    def class_evidence(
        self, batch: ImageBatch, features: dict[str, Tensor], box: Tensor, label: int
    ) -> dict[str, Tensor]:
        """The logits of class ``label`` of the anchors that overlap ``box`` (4,) by an IoU of at least 0.5."""
        del batch  # other heads look at its sizes
        maps = self._used(features)
        logits, _ = self._model.head(maps)
        answers = {}
        for level, value, anchors in zip(
            self._model.head_in_features, logits, self._model.anchor_generator(maps), strict=True
        ):
            own = flat(value, self._num_classes)[0, :, label - 1]
            answers[level] = anchor_answers(own, anchors.tensor, box)
        return evidence(answers)

    def parts(self, features: dict[str, Tensor]) -> list[HeadPart]:
        """The one part to measure, on all levels."""
        maps = self._used(features)
        return [HeadPart("head", "all levels", lambda: self._model.head(maps), (self._model.head,))]


def _detection(found: Instances) -> dict[str, Tensor]:
    """A detection of ours; boxes outside the image are cut, and left out where nothing remains of them."""
    found.pred_boxes.clip(found.image_size)
    found = found[found.pred_boxes.nonempty()]
    return {"boxes": found.pred_boxes.tensor, "labels": found.pred_classes + 1, "scores": found.scores}
