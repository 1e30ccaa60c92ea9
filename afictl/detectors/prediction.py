"""Detection in images of any size: resize as in the preset, detect, and map the boxes to the original pixels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torchvision.ops import clip_boxes_to_image

from afictl.data.transforms import move_boxes, resize_for
from afictl.detectors.detector import Detector
from afictl.detectors.head import Detections
from afictl.detectors.image_inputs import ImageInput, as_tensors
from afictl.detectors.image_memory import require_image_memory
from afictl.detectors.pixels import check_images


@torch.no_grad()
def predict(detector: Detector, images: ImageInput | Iterable[ImageInput]) -> list[Detections]:
    """Detect in ``images`` of any sizes, all in one batch; the detector is put into eval mode.

    Args:
        detector: on any device.
        images: a single image or several; an empty list gives an empty list. An image is a tensor (3, H, W), uint8 or
            float in 0..1, an array (H, W, 3) of uint8 or (3, H, W) of floats in 0..1, all RGB, a Pillow image of any
            mode, or the path of an image file, whose EXIF orientation is followed.

    Returns:
        For each image ``boxes`` (n, 4) xyxy in its own pixels, ``labels`` (n,) in 1..K, ``scores`` (n,) best
        first, and ``masks`` bool (n, H, W) when the detector has masks.

    Raises:
        UserError: an image of another type, shape or range, named by its index, a file that cannot be read, or too
            little memory for an image of the largest size.
    """
    detector.eval()
    tensors = as_tensors(images)
    check_images(tensors, allow_uint8=True)
    if tensors:
        require_image_memory(detector.preset, next(detector.parameters()).device)
    resized = [resize_for(detector.input, image) for image in tensors]
    predictions = []
    for image, small, detections in zip(tensors, resized, detector.detect(resized), strict=True):
        size = (image.shape[1], image.shape[2])
        prediction = to_original(detections, (small.shape[1], small.shape[2]), size)
        if "mask_probs" in prediction:
            prediction["masks"] = detector.paste_masks(prediction.pop("mask_probs"), prediction["boxes"], size)
        predictions.append(prediction)
    return predictions


def to_original(detections: Detections, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Detections:
    """Detections on an image of ``from_hw``, with ``boxes`` moved to the same image at ``to_hw`` pixels.

    ``mask_probs`` need no change: they are on the grids of the boxes.
    """
    return {**detections, "boxes": clip_boxes_to_image(move_boxes(detections["boxes"], from_hw, to_hw), to_hw)}
