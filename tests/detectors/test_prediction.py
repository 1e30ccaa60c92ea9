from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afictl.data.images import ORIENTATION
from afictl.detectors import Detector, predict, to_original
from afictl.errors import UserError


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


@pytest.fixture
def small(build: Callable[..., Detector]) -> Detector:
    return build("faster-rcnn", "input.test_size=64", "input.max_size=96")


IMAGE = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("image", "fact"),
    [
        (IMAGE * 255, r"0\.\d+ to 25\d.*divide by 255"),
        ((IMAGE - 0.45) / 0.22, "values from -.*normalises"),
        (-IMAGE, "values from -0.9"),
        (torch.full_like(IMAGE, torch.nan), "NaN"),
        (IMAGE.clone().index_fill_(1, torch.tensor([3]), torch.inf), "to inf"),
        ((IMAGE * 255).to(torch.int64), "got int64"),
        ((IMAGE * 255).to(torch.int16), "got int16"),
        (IMAGE > 0.5, "got bool"),
        (IMAGE[:1], "expand"),
        (torch.cat([IMAGE, IMAGE[:1]]), r"image\[:3\]"),
        (IMAGE.permute(1, 2, 0), "permute"),
        (IMAGE[0], "list of images"),
        (IMAGE[None], "list of images"),
        (IMAGE[:, :0], r"\(3, 0, 50\)"),
        (IMAGE.to_sparse(), "to_dense"),
        ([1, 2], "got a list"),
    ],
)
def test_image_of_another_type_shape_or_range_is_named(small: Detector, image: torch.Tensor, fact: str) -> None:
    with pytest.raises(ValueError, match=f"image 1: .*{fact}"):
        predict(small, [IMAGE, image])
    with pytest.raises(ValueError, match=f"image 1: .*{fact}"):
        small([IMAGE, image])
    targets = [{"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([1])}] * 2
    with pytest.raises(ValueError, match=f"image 1: .*{fact}"):
        small.train()([IMAGE, image], targets)


def test_tensors_arrays_pillow_images_and_paths_are_the_same_image(small: Detector, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)  # of the test size: not resized
    picture = Image.fromarray(array)
    picture.save(tmp_path / "image.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    inputs = [
        tensor,
        array,
        array[:, :, ::-1][:, :, ::-1],
        (array.transpose(2, 0, 1) / 255),
        picture,
        Image.open(tmp_path / "image.png"),
        tmp_path / "image.png",
        str(tmp_path / "image.png"),
    ]
    (expected,) = predict(small, [tensor])
    assert len(expected["boxes"])
    for detection in [
        *predict(small, inputs),
        *(d for image in inputs[:2] + inputs[4:6] for d in predict(small, image)),
    ]:
        torch.testing.assert_close(detection["boxes"], expected["boxes"])


def test_orientation_of_a_pillow_image_is_followed(small: Detector) -> None:
    picture = Image.fromarray((IMAGE * 255).to(torch.uint8).permute(1, 2, 0).numpy())
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[ORIENTATION] = 6  # to be turned clockwise
    upright, followed = predict(small, [picture, turned])
    torch.testing.assert_close(upright["boxes"], followed["boxes"])


def test_arrays_of_another_shape_and_unreadable_files_are_named(small: Detector, tmp_path: Path) -> None:
    array = np.zeros((40, 50, 3), np.uint8)
    for wrong in (array.transpose(2, 0, 1), array[:, :, :1], array.astype(np.int64), array / 255, array[0]):
        with pytest.raises(UserError, match=r"image 1: .*uint8 \(h, w, 3\).*got"):
            predict(small, [array, wrong])
    with pytest.raises(UserError, match=r"image 0: .*divide by 255"):
        predict(small, np.full((3, 40, 50), 255.0))
    with pytest.raises(UserError, match=r"none\.jpg does not exist"):
        predict(small, [array, tmp_path / "none.jpg"])
    Image.fromarray(array).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for image in (str(tmp_path / "cut.png"), Image.open(tmp_path / "cut.png")):
        with pytest.raises(UserError, match=r"cut\.png "):
            predict(small, image)
    with pytest.raises(UserError, match=r"image 0 .*range"):
        predict(small, Image.new("F", (50, 40)))


def test_values_that_resizing_overshoots_are_accepted(small: Detector) -> None:
    (detection,) = predict(small, [IMAGE * 1.4 - 0.2])
    assert len(detection["boxes"])


def test_iterator_of_images_gives_every_detection(small: Detector) -> None:
    assert len(predict(small, iter([IMAGE, IMAGE]))) == 2


def test_gradient_reaches_an_image_that_requires_one(small: Detector) -> None:
    image = IMAGE.clone().requires_grad_()
    small.pyramid([IMAGE, image])["p3"][1].square().sum().backward()
    assert image.grad is not None
    assert image.grad.any()


def test_no_images_give_no_detections(small: Detector) -> None:
    assert predict(small, []) == []
    assert small([]) == []
    assert small.segment([], []) == []
    with pytest.raises(ValueError, match="no images"):
        small.pyramid([])
    with pytest.raises(ValueError, match="no images"):
        small.train()([], [])
