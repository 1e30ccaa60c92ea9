"""Detectors: backbone, neck with its interpolator, and heads, in torchvision's detection convention."""

from afictl.detectors.build import build_detector
from afictl.detectors.cost import PartCost, interpolator_cost, model_cost, step_costs
from afictl.detectors.detector import Detector
from afictl.detectors.head import Head, HeadPart, ImageBatch
from afictl.detectors.masks import iter_pasted_masks, paste_masks
from afictl.detectors.prediction import predict, to_original

__all__ = [
    "Detector",
    "Head",
    "HeadPart",
    "ImageBatch",
    "PartCost",
    "build_detector",
    "interpolator_cost",
    "iter_pasted_masks",
    "model_cost",
    "paste_masks",
    "predict",
    "step_costs",
    "to_original",
]
