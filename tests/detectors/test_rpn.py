import math

import pytest
import torch
from torch.nn import functional as F

from afictl.detectors.rpn import ProposalNetwork, build_rpn, nonempty
from afictl.presets.architecture import FasterRCNNConfig

STRIDES = {f"p{i}": 2**i for i in range(2, 7)}


def small_rpn(**settings: int) -> ProposalNetwork:
    return build_rpn(FasterRCNNConfig(**settings), channels=4, strides=STRIDES)


@pytest.mark.parametrize("channels", [4, 16])
def test_initial_weights_have_the_documented_deviation(channels: int) -> None:
    head = build_rpn(FasterRCNNConfig(), channels=channels, strides=STRIDES).head
    weights = torch.cat([value.flatten() for name, value in head.named_parameters() if name.endswith("weight")])
    assert weights.std().item() == pytest.approx(0.01, rel=0.15)
    assert not any(value.any() for name, value in head.named_parameters() if name.endswith("bias"))


def test_anchors_per_octave_multiply_the_outputs() -> None:
    rpn = small_rpn(anchors_per_octave=2)
    assert (rpn.head.cls_logits.out_channels, rpn.head.bbox_pred.out_channels) == (6, 24)


def test_losses_equal_the_formula_of_detectron2() -> None:
    # Fewer anchors than the nominal sample of 8: every one is sampled, and the divisor stays 8 an image.
    rpn = small_rpn(rpn_batch=8)
    torch.manual_seed(0)
    logits, deltas, target_deltas = torch.randn(6, 1), torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.tensor([1.0, 0.0, -1.0, 0.0, 1.0, 0.0])
    class_loss, box_loss = rpn.compute_loss(
        logits, deltas, [labels[:3], labels[3:]], [target_deltas[:3], target_deltas[3:]]
    )

    sampled = [0, 1, 3, 4, 5]
    signed = torch.where(labels == 1, -logits[:, 0], logits[:, 0])[sampled]
    entropies = [math.log1p(math.exp(value)) for value in signed.tolist()]
    assert class_loss.item() == pytest.approx(sum(entropies) / 16, rel=1e-5)
    assert box_loss.item() == pytest.approx((deltas - target_deltas)[[0, 4]].abs().sum().item() / 16, rel=1e-5)


def test_sample_has_the_batch_size_and_half_objects() -> None:
    rpn = small_rpn(rpn_batch=4)
    labels = torch.cat([torch.ones(50), torch.zeros(50)])
    zeros = torch.zeros(100, 4)
    class_loss, box_loss = rpn.compute_loss(torch.zeros(100, 1), zeros, [labels], [zeros + 1])
    assert class_loss.item() == pytest.approx(math.log(2), rel=1e-5)  # 4 of 4 sampled
    assert box_loss.item() == pytest.approx(2 * 4 / 4)  # 2 of them objects, 4 numbers each


def test_proposals_are_ranked_by_logit_where_sigmoids_tie() -> None:
    rpn = small_rpn().eval()
    logits = torch.tensor([20.0, 30.0, 25.0])
    assert len(set(F.sigmoid(logits).tolist())) < 3
    boxes = torch.tensor([[0.0, 0, 8, 8], [16, 0, 24, 8], [32, 0, 40, 8]])
    proposals, scores = rpn.filter_proposals(boxes[None], logits[:, None], [(64, 64)], [1, 1, 1, 0, 0])
    assert proposals[0].tolist() == boxes[[1, 2, 0]].tolist()
    assert scores[0].tolist() == [30, 25, 20]


def test_proposals_are_clipped_and_only_the_empty_ones_dropped() -> None:
    rpn = small_rpn().eval()
    boxes = torch.tensor([[-5.0, -5, 8, 8], [70, 0, 90, 8], [10, 10, 10.0005, 20], [float("nan"), 0, 1, 1]])
    proposals, _ = rpn.filter_proposals(boxes[None], torch.tensor([[3.0], [2], [1], [0]]), [(64, 64)], [4])
    torch.testing.assert_close(proposals[0], torch.tensor([[0.0, 0, 8, 8], [10, 10, 10.0005, 20]]))


def test_proposals_suppress_within_a_level_only_and_stop_at_the_limit() -> None:
    rpn = small_rpn(proposals_test=2).eval()
    same = torch.tensor([[0.0, 0, 8, 8]]).repeat(4, 1)
    proposals, scores = rpn.filter_proposals(same[None], torch.tensor([[1.0], [2], [3], [0]]), [(64, 64)], [2, 1, 1])
    assert scores[0].tolist() == [3, 2]
    assert len(proposals[0]) == 2


def test_nonempty_boxes_have_width_and_height() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 1], [0, 2, 1, 1], [0, 0, float("nan"), 1]])
    assert nonempty(boxes).tolist() == [True, False, False, False]
