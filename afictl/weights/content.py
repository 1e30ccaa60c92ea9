"""What a checkpoint holds, in words, for errors."""

from __future__ import annotations

from afictl.interpolators.base import AFI_FORMAT, FORMAT
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import BACKBONE, DETECTOR, DISCRIMINATOR
from afictl.weights.layouts.msra import find_plain_resnet

_OURS = {
    DETECTOR: "a detector",
    AFI_FORMAT: "an AF interpolator, for --interpolator",
    FORMAT: "an interpolator, for --interpolator",
    DISCRIMINATOR: "a discriminator",
    BACKBONE: "an ImageNet backbone, for --backbone-weights",
}


def held(checkpoint: Checkpoint) -> str:
    """What is in it, how many tensors, and the first one's name."""
    first = next(iter(checkpoint.tensors), "none")
    what = _OURS.get(str(checkpoint.metadata.get("format")))
    if what is None and find_plain_resnet(checkpoint.tensors):
        what = _OURS[BACKBONE]
    what = what or "tensors without a description of ours, in no layout known here"
    return f"{what} ({len(checkpoint.tensors)} tensors, first {first})"
