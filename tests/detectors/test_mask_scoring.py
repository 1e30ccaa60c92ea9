import pytest
import torch

from afictl.detectors.mask_scoring import MaskScorer, mask_ious, mask_score_loss, visible_fractions


def square(low: int, high: int, size: int) -> torch.Tensor:
    bitmap = torch.zeros(size, size, dtype=torch.uint8)
    bitmap[low:high, low:high] = 1
    return bitmap


def test_visible_fractions_count_parts_of_pixels() -> None:
    masks = torch.stack([square(10, 30, 64), square(0, 64, 64), square(0, 0, 64)])
    boxes = torch.tensor([[0.0, 0, 64, 64], [10, 10, 20, 30], [10.5, 10, 20, 30], [40, 40, 50, 50], [8, 0, 24.25, 64]])
    matches = torch.tensor([0, 0, 0, 0, 1])
    expected = torch.tensor([1, 0.5, 0.475, 0, 16.25 / 64])
    torch.testing.assert_close(visible_fractions(masks, boxes, matches), expected)
    assert visible_fractions(masks, boxes[:1], torch.tensor([2])).tolist() == [0]  # an object without a pixel
    assert visible_fractions(masks, boxes[:0], matches[:0]).shape == (0,)


def test_visible_fractions_are_exact_under_autocast() -> None:
    masks, boxes = square(3, 1000, 1003)[None], torch.tensor([[0.0, 0, 700, 900]])
    with torch.autocast("cpu", torch.bfloat16):
        fraction = visible_fractions(masks, boxes, torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(fraction, torch.tensor([697 * 897 / 997**2]))


def test_iou_equals_a_count_of_pixels_when_the_object_leaves_the_box() -> None:
    """A box of 28 x 28 pixels, so that cells are pixels; of the object 20 x 20 only 12 x 14 are inside."""
    image, box = torch.zeros(64, 64, dtype=torch.uint8), (20, 20, 48, 48)
    image[34:54, 36:56] = 1
    predicted = torch.zeros(64, 64, dtype=torch.bool)
    predicted[30:46, 30:44] = True
    crop = (slice(box[1], box[3]), slice(box[0], box[2]))
    fractions = visible_fractions(image[None], torch.tensor([box], dtype=torch.float32), torch.tensor([0]))
    iou = mask_ious(predicted[crop][None], image[crop][None], fractions)
    overlap, union = (predicted & image.bool()).sum(), (predicted | image.bool()).sum()
    torch.testing.assert_close(iou, (overlap / union)[None])
    assert iou.item() == pytest.approx(12 * 8 / (16 * 14 + 400 - 12 * 8))


def test_iou_without_mask_or_object_is_zero() -> None:
    empty, full = torch.zeros(1, 28, 28), torch.ones(1, 28, 28)
    assert mask_ious(empty > 0, empty, torch.zeros(1)).item() == 0
    assert mask_ious(empty > 0, full, torch.ones(1)).item() == 0
    assert mask_ious(full > 0, empty, torch.zeros(1)).item() == 0
    assert mask_ious(full > 0, full, torch.ones(1)).item() == 1


def test_loss_is_half_the_squared_error_of_masks_that_touch_their_object() -> None:
    predicted = torch.tensor([0.5, 0.9, 0.2], requires_grad=True)
    loss = mask_score_loss(predicted, torch.tensor([0.8, 0.0, 0.6]))
    assert loss.item() == pytest.approx(0.5 * (0.3**2 + 0.4**2) / 2)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == pytest.approx([-0.15, 0, -0.2])


@pytest.mark.parametrize("count", [0, 2])
def test_loss_without_such_masks_is_zero_with_a_gradient(count: int) -> None:
    predicted = torch.ones(count, requires_grad=True)
    loss = mask_score_loss(predicted, torch.zeros(count))
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad is not None


@pytest.mark.parametrize("count", [0, 3])
def test_scorer_pools_the_largest_probability_of_four(count: int) -> None:
    torch.manual_seed(0)
    scorer, pooled = MaskScorer(8, 14, 16, 32, 5), torch.randn(count, 8, 14, 14)
    masks = torch.rand(count, 28, 28)
    ious = scorer(pooled, masks)
    assert ious.shape == (count, 5)
    shrunk = masks.unflatten(1, (14, 2)).unflatten(3, (14, 2)).amax(dim=(2, 4))
    torch.testing.assert_close(scorer(pooled, shrunk.repeat_interleave(2, 1).repeat_interleave(2, 2)), ious)
    assert count == 0 or not torch.allclose(scorer(pooled, masks / 2), ious)
