"""Checkpoints: safe reading, loading with a report, detector files."""

from afictl.weights.checkpoint import Checkpoint, read_checkpoint
from afictl.weights.detector_file import LoadedDetector, detector_classes, load_detector, save_detector
from afictl.weights.interpolator_file import load_interpolator
from afictl.weights.loading import LoadReport, load_backbone_weights, load_tensors, load_weights, read_weights

__all__ = [
    "Checkpoint",
    "LoadReport",
    "LoadedDetector",
    "detector_classes",
    "load_backbone_weights",
    "load_detector",
    "load_interpolator",
    "load_tensors",
    "load_weights",
    "read_checkpoint",
    "read_weights",
    "save_detector",
]
