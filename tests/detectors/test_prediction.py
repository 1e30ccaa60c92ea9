from collections.abc import Callable

import pytest
import torch

from afictl.detectors import Detector, predict, to_original


def test_to_original_scales_each_axis_and_stays_inside() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 40], [0, 0, 100.001, 50]])
    detection = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8])}
    moved = to_original(detection, (50, 100), (100, 400))
    torch.testing.assert_close(moved["boxes"], torch.tensor([[40.0, 40, 120, 80], [0, 0, 400, 100]]))
    assert moved["scores"] is detection["scores"]
    assert boxes[0, 0] == 10


@pytest.mark.parametrize("kind", ["faster-rcnn", "mask-rcnn"])
def test_predictions_are_in_the_pixels_of_the_original_images(build: Callable[..., Detector], kind: str) -> None:
    detector = build(kind, "input.test_size=64", "input.max_size=96")
    generator = torch.Generator().manual_seed(0)
    bytes_image = torch.randint(0, 256, (3, 201, 133), dtype=torch.uint8, generator=generator)
    predictions = predict(detector, [bytes_image, torch.rand(3, 40, 300, generator=generator)])
    for prediction, (height, width) in zip(predictions, [(201, 133), (40, 300)], strict=True):
        assert (prediction["boxes"] <= torch.tensor([width, height] * 2)).all()
        assert prediction["boxes"][:, 2].max() > 0.8 * width
        assert "mask_probs" not in prediction
        if kind == "mask-rcnn":
            assert prediction["masks"].shape == (len(prediction["boxes"]), height, width)


def test_bytes_and_floats_are_the_same_image(build: Callable[..., Detector]) -> None:
    detector = build("faster-rcnn", "input.test_size=64", "input.max_size=96")
    image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from_bytes, from_floats = predict(detector, [image, image.float() / 255])
    torch.testing.assert_close(from_bytes["boxes"], from_floats["boxes"])
