"""Mask R-CNN of afictl, torchvision and detectron2 with the same weights, which detect a fixed number of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from afictl import build_detector, load_preset
from afictl.detectors import Detector
from afictl.presets import Preset
from afictl.presets.architecture import MaskRCNNConfig
from afictl.weights.layouts.detectron2_names import detector_key

_DETECTIONS, _NUM_CLASSES = 50, 80
_OBJECTS = 10
_CANDIDATES = 300
"""Boxes above the score threshold, before non-maximum suppression: about those of a trained detector in a picture."""
_LOGIT_STD = 2.0
_RESIDUAL_SCALE = 0.2
_TORCHVISION_LEVELS = {f"p{k + 2}": k for k in range(4)}
_ZOO = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"


@dataclass(frozen=True)
class Model:
    """A detector of a library with its inputs."""

    module: nn.Module
    images: Any
    """Argument of a detection."""
    training: tuple[Any, ...]
    """Arguments of a training step, whose result is a dict of losses."""
    boxes: Callable[[Any], Tensor]
    """Boxes (n, 4) of the result of a detection."""
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    """Of a training step."""


def mask_rcnn_preset(settings: Sequence[str] = ()) -> Preset:
    """afictl's Mask R-CNN with nearest interpolation and a limited number of detections."""
    fixed = ("backbone.pretrained=false", "interpolator.kind=nearest", f"detector.max_detections={_DETECTIONS}")
    return load_preset("mask-rcnn-r50-fpn", [*fixed, *settings])


@torch.no_grad()
def build_with_detections(preset: Preset, image: Tensor) -> Detector:
    """A detector with random weights, of which about ``_CANDIDATES`` boxes in ``image`` are above the threshold.

    Args:
        preset: of ``mask_rcnn_preset``.
        image: float (3, H, W) in 0..1.
    """
    torch.manual_seed(0)
    detector = build_detector(preset, _NUM_CLASSES).to(image.device).eval()
    for name, value in detector.backbone.named_parameters():
        if name.endswith(("bn3.weight", "bn2.weight")) and not value.any():  # as timm starts a residual branch
            value.fill_(_RESIDUAL_SCALE)
    predictor: Any = detector.head.get_submodule("roi_heads.box_predictor")
    logits: list[Tensor] = []
    hook = predictor.register_forward_hook(lambda module, inputs, output: logits.append(output[0]))
    detector.detect([image], masks=False)
    hook.remove()
    scale = _LOGIT_STD / logits[0].std()
    predictor.cls_score.weight.mul_(scale)
    predictor.cls_score.bias[0] = _background_bias(scale * logits[0], preset.detector.score_threshold)
    return detector


def with_interpolator(detector: Detector, kind: str) -> Detector:
    """A detector of the same weights with another interpolator, which is not trained."""
    other = build_detector(detector.preset.with_kind(kind), _NUM_CLASSES).to(detector.pixel_mean.device)
    other.load_state_dict(detector.state_dict(), strict=False)
    return other


def _background_bias(logits: Tensor, threshold: float) -> float:
    """Bias of class 0, by bisection, with which ``_CANDIDATES`` scores of ``logits`` (R, 1 + K) pass ``threshold``."""
    low, high = -20.0, 40.0
    for _ in range(40):
        bias = (low + high) / 2
        biased = logits.clone()
        biased[:, 0] += bias
        is_above = biased.softmax(-1)[:, 1:] > threshold
        low, high = (bias, high) if is_above.sum() > _CANDIDATES else (low, bias)
    return high


def picture(hw: tuple[int, int]) -> Tensor:
    """A smooth random image, float (3, H, W) in 0..1."""
    coarse = torch.rand(1, 3, 25, 25, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, hw, mode="bicubic").clamp(0, 1)[0]


def target_of(hw: tuple[int, int]) -> dict[str, Tensor]:
    """Ellipses of various sizes and labels in an image of height and width ``hw``."""
    generator, (h, w) = torch.Generator().manual_seed(1), hw
    image_wh = torch.tensor([w, h])
    sizes = image_wh * (0.05 + 0.4 * torch.rand(_OBJECTS, 2, generator=generator))
    corners = torch.rand(_OBJECTS, 2, generator=generator) * (image_wh - sizes)
    x, y = (
        ((torch.arange(length) + 0.5 - corners[:, k, None]) / sizes[:, k, None] * 2 - 1)
        for k, length in enumerate((w, h))
    )
    masks = (y[:, :, None] ** 2 + x[:, None, :] ** 2 <= 1).to(torch.uint8)
    labels = torch.randint(1, _NUM_CLASSES + 1, (_OBJECTS,), generator=generator)
    return {"boxes": torch.cat([corners, corners + sizes], dim=1), "labels": labels, "masks": masks}


def afictl_model(detector: Detector, image: Tensor, target: Mapping[str, Tensor]) -> Model:
    """The detector as it is."""
    return Model(detector, [image], ([image], [dict(target)]), lambda result: result[0]["boxes"])


def torchvision_model(detector: Detector, image: Tensor, target: Mapping[str, Tensor]) -> Model:
    """torchvision's ``maskrcnn_resnet50_fpn`` with the settings and the weights of ``detector``.

    It is put together from torchvision's parts, as ``maskrcnn_resnet50_fpn`` has frozen batch norms only with
    downloaded weights.
    """
    config, backbone = detector.preset.detector, detector.preset.backbone
    assert isinstance(config, MaskRCNNConfig)
    body = resnet_fpn_backbone(
        backbone_name=backbone.name.partition(".")[0],
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=5 - backbone.frozen_stages,
    )
    module = MaskRCNN(
        body,
        1 + _NUM_CLASSES,
        min_size=min(image.shape[1:]),
        max_size=max(image.shape[1:]),
        rpn_post_nms_top_n_train=config.proposals_train,
        rpn_post_nms_top_n_test=config.proposals_test,
        box_batch_size_per_image=config.roi_batch,
        box_detections_per_img=config.max_detections,
    )
    module.load_state_dict(_torchvision_tensors(detector.state_dict()))
    return Model(module.to(image.device), [image], ([image], [dict(target)]), lambda result: result[0]["boxes"])


def _torchvision_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of afictl's detector under torchvision's names; there class 0, too, has a box and a mask."""
    renamed = {}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part == "backbone":
            key = f"backbone.body.{rest.removeprefix('net.')}"
        elif part == "neck":
            kind, level, tensor = rest.split(".")
            blocks = {"lateral_convs": "inner_blocks", "output_convs": "layer_blocks"}[kind]
            key = f"backbone.fpn.{blocks}.{_TORCHVISION_LEVELS[level]}.0.{tensor}"
        else:
            key = rest.replace("mask_predictor.deconv", "mask_predictor.conv5_mask")
            key = key.replace("mask_predictor.logits", "mask_predictor.mask_fcn_logits")
        background = 4 * (".box_predictor.bbox_pred." in key) + (".mask_fcn_logits." in key)
        renamed[key] = torch.cat([value.new_zeros(background, *value.shape[1:]), value]) if background else value
    return renamed


def detectron2_model(detector: Detector, image: Tensor, target: Mapping[str, Tensor]) -> Model:
    """detectron2's Mask R-CNN with the weights of ``detector``; detectron2 must be installed."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    preset, config = detector.preset, detector.preset.detector
    assert isinstance(config, MaskRCNNConfig)
    cfg = model_zoo.get_config(_ZOO)
    options = {
        "MODEL.DEVICE": str(image.device),
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.PIXEL_MEAN": [255 * value for value in preset.input.mean],
        "MODEL.PIXEL_STD": [255 * value for value in preset.input.std],
        "MODEL.BACKBONE.FREEZE_AT": preset.backbone.frozen_stages,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": config.proposals_train,
        "MODEL.RPN.POST_NMS_TOPK_TEST": config.proposals_test,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": config.roi_batch,
        "TEST.DETECTIONS_PER_IMAGE": config.max_detections,
        "INPUT.FORMAT": "RGB",
    }
    if preset.backbone.name.startswith("resnet18"):
        options |= {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    module: nn.Module = build_model(cfg)
    _load_detectron2(module, detector)
    h, w = image.shape[1:]
    objects = Instances((h, w))
    objects.gt_boxes, objects.gt_classes = Boxes(target["boxes"]), target["labels"] - 1
    objects.gt_masks = BitMasks(target["masks"])
    inputs = {"image": 255 * image, "height": h, "width": w}
    training = [{"image": inputs["image"], "instances": objects}]
    return Model(module, [inputs], (training,), _instance_boxes, EventStorage)


def _instance_boxes(result: Any) -> Tensor:
    boxes: Tensor = result[0]["instances"].pred_boxes.tensor
    return boxes


def _load_detectron2(module: nn.Module, detector: Detector) -> None:
    """Load the weights of ``detector``; detectron2's last class is the background, which is the first in afictl."""
    tensors = {}
    for name, value in detector.state_dict().items():
        key = detector_key(name, detector.preset)
        if key is not None:
            tensors[key] = value.roll(-1, 0) if ".cls_score." in key else value
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not missing, missing
    assert not unexpected, unexpected
