"""Detection on whole photographs: resize as the preset says, detect, and answer in the original pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from afictl.data.transforms import move_boxes, resize_for
from afictl.detectors.detector import Detector


@torch.no_grad()
def predict(detector: Detector, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Detect in ``images`` of any sizes, all in one batch; the detector is put into eval mode.

    Args:
        detector: on any device.
        images: uint8, or float in 0..1, (3, H, W) RGB.

    Returns:
        For each image ``boxes`` (n, 4) xyxy in its own pixels, ``labels`` (n,) in 1..K, ``scores`` (n,) best
        first, and ``masks`` bool (n, H, W) when the detector has masks.
    """
    detector.eval()
    resized = [resize_for(detector.input, image) for image in images]
    answers = []
    for image, seen, detection in zip(images, resized, detector.detect(resized), strict=True):
        size = (image.shape[1], image.shape[2])
        answer = to_original(detection, (seen.shape[1], seen.shape[2]), size)
        if "mask_probs" in answer:
            answer["masks"] = detector.paste_masks(answer.pop("mask_probs"), answer["boxes"], size)
        answers.append(answer)
    return answers


def to_original(detection: dict[str, Tensor], from_hw: tuple[int, int], to_hw: tuple[int, int]) -> dict[str, Tensor]:
    """A detection on an image of ``from_hw``, with its ``boxes`` moved to the same image at ``to_hw`` pixels.

    ``mask_probs`` need no change: they lie on the boxes' own grids.
    """
    return {**detection, "boxes": clip_boxes_to_image(move_boxes(detection["boxes"], from_hw, to_hw), to_hw)}
