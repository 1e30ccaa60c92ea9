import math

import pytest
import torch
from torch.nn import functional as F

from afictl.detectors.masks import iter_pasted_masks, mask_loss, mask_targets, paste_masks


def paste_in_loop(probs: torch.Tensor, box: list[float], size_hw: tuple[int, int]) -> torch.Tensor:
    """Probability at the centre of each pixel: bilinear on the box's grid of cells, zero beyond the grid."""
    side = len(probs)
    out = torch.zeros(size_hw)
    for i in range(size_hw[0]):
        for j in range(size_hw[1]):
            u = (j + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            v = (i + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            for row in (math.floor(v), math.floor(v) + 1):
                for column in (math.floor(u), math.floor(u) + 1):
                    if 0 <= row < side and 0 <= column < side:
                        weight = (1 - abs(v - row)) * (1 - abs(u - column))
                        out[i, j] += weight * probs[row, column]
    return out


@pytest.mark.parametrize(
    "box",
    [
        [3.3, 4.7, 20.2, 15.9],
        [-6.0, -3.0, 10.5, 8.2],  # beyond the left and upper border
        [12.0, 10.0, 40.0, 30.0],  # beyond the right and lower border
        [5.2, 5.1, 5.9, 5.7],  # less than a pixel
        [-30.0, -30.0, 60.0, 60.0],  # larger than the image
        [0.0, 0.0, 24.0, 18.0],
    ],
)
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_pasting_equals_a_loop_over_pixels(box: list[float], threshold: float) -> None:
    torch.manual_seed(0)
    probs = torch.rand(7, 7)
    expected = paste_in_loop(probs, box, (18, 24))
    pasted = paste_masks(probs[None], torch.tensor([box]), (18, 24), threshold)[0]
    clear = (expected - threshold).abs() > 1e-4
    assert clear.float().mean() > 0.99
    assert torch.equal(pasted[clear], (expected >= threshold)[clear])


def test_a_full_mask_on_a_whole_box_is_exactly_the_box() -> None:
    pasted = paste_masks(torch.ones(1, 28, 28), torch.tensor([[2.0, 3.0, 7.0, 9.0]]), (12, 12))[0]
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[3:9, 2:7] = True
    assert torch.equal(pasted, expected)


def test_chunks_have_the_same_masks_within_the_limit() -> None:
    torch.manual_seed(0)
    probs, corner = torch.rand(7, 28, 28), torch.rand(7, 2) * 20
    boxes = torch.cat((corner, corner + 5 + torch.rand(7, 2) * 30), dim=1)
    whole = paste_masks(probs, boxes, (40, 50))
    chunks = list(iter_pasted_masks(probs, boxes, (40, 50), chunk_bytes=3 * 40 * 50 + 100))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert torch.equal(torch.cat(chunks), whole)
    one_by_one = list(iter_pasted_masks(probs, boxes, (40, 50), chunk_bytes=1))
    assert [len(chunk) for chunk in one_by_one] == [1] * 7
    assert torch.equal(torch.cat(one_by_one), whole)


def test_pasting_without_masks_or_area_is_empty() -> None:
    assert list(iter_pasted_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6))) == []
    empty = paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6))
    assert (tuple(empty.shape), empty.dtype) == ((0, 5, 6), torch.bool)
    flat = torch.tensor([[2.0, 2.0, 2.0, 4.0], [8.0, 8.0, 9.0, 9.0], [float("nan")] * 4])
    assert not paste_masks(torch.ones(3, 28, 28), flat, (5, 6)).any()


def test_targets_are_the_bitmap_inside_the_box() -> None:
    masks = torch.zeros(2, 20, 20, dtype=torch.uint8)
    masks[0, 4:8, 6:10] = 1
    masks[1] = 1
    # 1 px a cell; the objects of the boxes are 0, 1 and 0
    boxes = torch.tensor([[4.0, 2, 12, 10], [4, 2, 12, 10], [0, 0, 8, 8]])
    targets = mask_targets(masks, boxes, torch.tensor([0, 1, 0]), 8)
    assert targets.dtype == torch.float32
    assert torch.equal(targets[0], masks[0, 2:10, 4:12].float())
    assert targets[1].all()
    assert torch.equal(targets[2], masks[0, 0:8, 0:8].float())


def test_a_target_cell_counts_from_half_covered() -> None:
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, :, 1] = masks[0, :, 4:7] = True
    targets = mask_targets(masks, torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([0]), 4)
    assert targets[0, 0].tolist() == [1, 0, 1, 1]  # 1/2, 0, 2/2, 1/2 of a cell


def test_masks_of_0_and_255_are_bitmaps_too() -> None:
    masks = torch.zeros(1, 4, 8, dtype=torch.uint8)
    masks[0, :, 1] = masks[0, :, 4:7] = 255
    targets = mask_targets(masks, torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([0]), 2)
    assert targets[0, 0].tolist() == [0, 1]  # 1/4 and 3/4 of a cell


def test_targets_without_boxes_are_empty() -> None:
    matches = torch.zeros(0, dtype=torch.int64)
    assert mask_targets(torch.zeros(0, 9, 9), torch.zeros(0, 4), matches, 28).shape == (0, 28, 28)


def test_pasting_undoes_targets() -> None:
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    disc = ((x - 60) / 40) ** 2 + ((y - 45) / 30) ** 2 < 1
    box = torch.tensor([[20.3, 15.2, 99.6, 75.4]])
    pasted = paste_masks(mask_targets(disc[None], box, torch.tensor([0]), 28), box, (90, 120))[0]
    assert (pasted & disc).sum() / (pasted | disc).sum() > 0.96


def test_loss_depends_on_the_class_of_the_instance_only() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 4), torch.randint(2, (2, 4, 4)).float()
    loss = mask_loss(logits, torch.tensor([3, 1]), targets)
    class_logits = torch.stack((logits[0, 2], logits[1, 0]))
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(class_logits, targets))


def test_loss_without_objects_is_zero_with_a_gradient() -> None:
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = mask_loss(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, 4))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
