"""Parts of detectron2's R-CNNs and RetinaNet, as ``Detector`` calls them.

The model's own modules compute, in the order of the model's own forward: the numbers are detectron2's for the same
pixels. Left out is its preprocessing, which is that of ``Detector``.

Legend: N images, K classes without background; detectron2 counts them from 0 to K - 1, and here labels are 1..K.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from afictl.backbones.resnet import resnet_key
from afictl.detectors.class_logits import anchor_logits, matching_logits, region_logits
from afictl.detectors.dense import flatten_map
from afictl.detectors.head import Detections, FeatureMaps, HeadPart, ImageBatch, Losses, Target
from afictl.detectors.rcnn import box_part, mask_part, rpn_part
from afictl.detectors.views import BackboneView, NeckView, full_precision
from afictl.integrations.detectron2_pyramids import InterpolatedFPN, NeckBackbone
from afictl.presets import InputConfig


class BottomUpView(BackboneView):
    """The bottom-up network of a model.

    Args:
        name: timm's name of the network.
        net: detectron2's network.
        levels: those that the pyramid reads.
        config: normalisation of the images, in RGB order.
        bgr: whether the network takes blue, green, red.
    """

    converts_deviation = True

    def __init__(self, name: str, net: Backbone, levels: Sequence[str], config: InputConfig, bgr: bool) -> None:
        shapes = net.output_shape()
        channels = {level: shapes[level].channels for level in levels}
        super().__init__(name, net, channels, {level: shapes[level].stride for level in levels})
        self._config = config
        self._bgr = bgr

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Images (N, 3, H, W), RGB and normalised -> the maps that the pyramid reads, and any others."""
        return self.net(images.flip(1) if self._bgr else images)

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's ResNet classifier, trained on RGB with the mean and deviation of ImageNet."""
        renamed = {resnet_key(name): value for name, value in tensors.items() if not name.startswith("fc.")}
        stem = renamed.get("stem.conv1.weight")
        if stem is not None and stem.ndim == 4:
            # The network's input has another deviation, and perhaps the other order.
            scale = torch.tensor(self._config.std) / torch.tensor(InputConfig().std)
            scaled = stem * scale.to(stem)[:, None, None]
            renamed["stem.conv1.weight"] = scaled.flip(1) if self._bgr else scaled
        return renamed


class PyramidView(NeckView):
    """The pyramid of a model.

    Args:
        backbone: the bottom-up network with its pyramid.
        num_upsamplers: calls of the interpolator in one forward pass.
    """

    def __init__(self, backbone: InterpolatedFPN | NeckBackbone, num_upsamplers: int) -> None:
        shapes = backbone.output_shape()
        strides = {name: shape.stride for name, shape in shapes.items()}
        channels = next(iter(shapes.values())).channels
        pyramid = backbone.neck if isinstance(backbone, NeckBackbone) else backbone
        super().__init__(pyramid, channels, strides, num_upsamplers, backbone.size_divisibility)
        self._backbone = backbone

    def __call__(self, features: Mapping[str, Tensor]) -> FeatureMaps:
        """``res*`` -> the levels."""
        return self._backbone.pyramid(features)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of the pyramid, those of the interpolator among them."""
        for name, value in self._backbone.named_parameters():
            if not name.startswith("bottom_up."):
                yield value


class _Detectron2Head:
    """Conversion of targets and detections, common to the heads of both kinds.

    Args:
        model: GeneralizedRCNN or RetinaNet.
        num_classes: K.
        masks: whether it has masks.
    """

    unsaved: tuple[str, ...] = ()
    """Tensors that detectron2 does not save, relative to the model."""

    def __init__(self, model: GeneralizedRCNN | RetinaNet, num_classes: int, masks: bool) -> None:
        self._model = model
        self._num_classes = num_classes
        self._masks = masks

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of the model."""
        images = ImageList(batch.tensor, batch.sizes)
        # detectron2 logs statistics into an EventStorage and fails without one.
        with full_precision(features) as maps, EventStorage():
            objects = [self._instances(*pair, batch.tensor.device) for pair in zip(targets, batch.sizes, strict=True)]
            return self._losses(images, maps, objects)

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections without masks."""
        with full_precision(features) as maps:
            instances = self._detect(ImageList(batch.tensor, batch.sizes), maps)
            return [_detections(image_instances) for image_instances in instances]

    def _instances(self, target: Target, size_hw: tuple[int, int], device: torch.device) -> Instances:
        objects = Instances(size_hw)
        objects.gt_boxes = Boxes(target["boxes"].to(device))
        objects.gt_classes = target["labels"].to(device) - 1
        if self._masks:
            objects.gt_masks = BitMasks(target["masks"].to(device, torch.bool))
        return objects

    def _losses(self, images: ImageList, maps: FeatureMaps, objects: list[Instances]) -> Losses:
        raise NotImplementedError

    def _detect(self, images: ImageList, maps: FeatureMaps) -> list[Instances]:
        raise NotImplementedError


class Detectron2RegionHead(_Detectron2Head):
    """Proposals, boxes and masks of an R-CNN, also in cascade."""

    class_layers: tuple[str, ...] = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")

    def _losses(self, images: ImageList, maps: FeatureMaps, objects: list[Instances]) -> Losses:
        proposals, losses = self._model.proposal_generator(images, maps, objects)
        return {**losses, **self._model.roi_heads(images, maps, proposals, objects)[1]}

    def _detect(self, images: ImageList, maps: FeatureMaps) -> list[Instances]:
        proposals, _ = self._model.proposal_generator(images, maps, None)
        return self._model.roi_heads._forward_box(maps, proposals)  # its computation in eval mode before its masks

    def segment(self, batch: ImageBatch, features: FeatureMaps, detections: Sequence[Detections]) -> list[Detections]:
        """The detections with ``mask_probs`` (n, M, M)."""
        instances = [
            Instances(size, pred_boxes=Boxes(detection["boxes"]), pred_classes=detection["labels"] - 1)
            for detection, size in zip(detections, batch.sizes, strict=True)
        ]
        with full_precision(features) as maps:
            segmented = self._model.roi_heads.forward_with_given_boxes(maps, instances)
        return [
            {**detection, "mask_probs": image_instances.pred_masks[:, 0]}
            for detection, image_instances in zip(detections, segmented, strict=True)
        ]

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """Each box head's logit of class ``label`` for the region ``box`` (4,), by the level it is pooled from."""
        heads, boxes = self._model.roi_heads, [Boxes(box[None])]
        pooler, names = heads.box_pooler, heads.box_in_features
        bounds = pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
        level = names[int(assign_boxes_to_levels(boxes, *bounds))]
        pooled = pooler([features[name] for name in names], boxes)
        return region_logits(pooled, self._box_stages(), label - 1, level)

    def _box_stages(self) -> list[tuple[nn.Module, nn.Module]]:
        """The box heads that every region passes, each with its predictor."""
        heads = self._model.roi_heads
        if isinstance(heads.box_head, nn.ModuleList):
            return list(zip(heads.box_head, heads.box_predictor, strict=True))
        return [(heads.box_head, heads.box_predictor)]

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """Proposals on all levels, boxes and masks on the largest number of regions."""
        heads, rpn, stages = self._model.roi_heads, self._model.proposal_generator, self._box_stages()
        maps = [features[name] for name in rpn.in_features]
        parts = [
            rpn_part(rpn.rpn_head, maps),
            box_part(stages, maps[0], rpn.post_nms_topk[False], heads.box_pooler.output_size),
        ]
        if self._masks:
            predictor = cast(FastRCNNOutputLayers, stages[0][1])
            count, size = predictor.test_topk_per_image, heads.mask_pooler.output_size
            parts.append(mask_part(heads.mask_head, heads.mask_head.layers, maps[0], count, size))
        return parts


class Detectron2DenseHead(_Detectron2Head):
    """The head of a RetinaNet.

    detectron2 divides its losses by a running mean of the number of positive anchors, which it stores outside the
    state dict; here it is a buffer, so that resumed training continues with it.
    """

    class_layers: tuple[str, ...] = ("head.cls_score.",)
    unsaved: tuple[str, ...] = ("loss_normalizer",)

    def __init__(self, model: GeneralizedRCNN | RetinaNet, num_classes: int, masks: bool) -> None:
        super().__init__(model, num_classes, masks)
        model.register_buffer("loss_normalizer", torch.tensor(100.0))  # detectron2's initial mean

    def _losses(self, images: ImageList, maps: FeatureMaps, objects: list[Instances]) -> Losses:
        inputs = self._inputs(maps)
        # TorchScript rewrites detectron2's focal loss after its first calls, and with it the last bits of a step.
        with torch.jit.optimized_execution(False):
            return self._model.forward_training(images, inputs, self._model.head(inputs), objects)

    def _detect(self, images: ImageList, maps: FeatureMaps) -> list[Instances]:
        inputs = self._inputs(maps)
        return self._model.forward_inference(images, inputs, self._model.head(inputs))

    def _inputs(self, maps: FeatureMaps) -> list[Tensor]:
        return [maps[name] for name in self._model.head_in_features]

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The logits of class ``label`` of the anchors that overlap ``box`` (4,) by an IoU of at least 0.5."""
        maps, names = self._inputs(features), self._model.head_in_features
        logits, _ = self._model.head(maps)
        levels = {}
        for level, value, anchors in zip(names, logits, self._model.anchor_generator(maps), strict=True):
            column = flatten_map(value, self._num_classes)[0, :, label - 1]
            levels[level] = anchor_logits(column, anchors.tensor, box)
        return matching_logits(levels)

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """The complete head on all levels."""
        maps = self._inputs(features)
        return [HeadPart("head", "all levels", lambda: self._model.head(maps), (self._model.head,))]


def _detections(instances: Instances) -> Detections:
    """Detections of an image; boxes are clipped to it, and left out where nothing of them is inside."""
    instances.pred_boxes.clip(instances.image_size)
    instances = instances[instances.pred_boxes.nonempty()]
    return {
        "boxes": instances.pred_boxes.tensor,
        "labels": instances.pred_classes + 1,
        "scores": instances.scores,
    }
