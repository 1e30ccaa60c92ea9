from typing import Literal

import pytest
import torch
from torch import nn
from torchvision.ops import roi_align

from afictl.detectors.region_layers import (
    AlignedRoIPool,
    BoxPredictor,
    MaskPredictor,
    build_box_head,
    build_mask_head,
)

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


@pytest.fixture
def maps() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pyramid = {name: torch.randn(2, 3, 512 // stride, 640 // stride) for name, stride in STRIDES.items()}
    return {**pyramid, "p6": torch.full((2, 3, 8, 10), torch.nan)}


@pytest.mark.parametrize(
    ("box", "level"),
    [
        ((10, 10, 40, 50), "p2"),  # far below 112 px
        ((10, 10, 121.9, 121.9), "p2"),  # just below 112
        ((10, 10, 122, 122), "p3"),
        ((0, 0, 224, 224), "p4"),
        ((0, 0, 448, 448), "p5"),
        ((0, 0, 640, 512), "p5"),  # no coarser level takes regions
    ],
)
def test_regions_are_pooled_aligned_from_the_level_of_their_size(
    maps: dict[str, torch.Tensor], box: tuple[float, ...], level: str
) -> None:
    boxes = [torch.zeros(0, 4), torch.tensor([box], dtype=torch.float32)]
    pooled = AlignedRoIPool(STRIDES, 7)(maps, boxes, [(500, 600)] * 2)
    expected = roi_align(maps[level], boxes, 7, 1 / STRIDES[level], sampling_ratio=0, aligned=True)
    torch.testing.assert_close(pooled, expected)


def test_a_region_of_whole_cells_holds_their_values() -> None:
    # Aligned: the 7x7 grid of a 28 px region at stride 4 falls on cells without a half-pixel shift.
    pyramid = {name: torch.randn(1, 2, 16, 16) for name in STRIDES}
    pooled = AlignedRoIPool(STRIDES, 7)(pyramid, [torch.tensor([[8.0, 4, 36, 32]])], [(64, 64)])
    torch.testing.assert_close(pooled[0], pyramid["p2"][0, :, 1:8, 2:9])


def test_half_precision_maps_are_pooled_at_float32_positions() -> None:
    pyramid = {name: torch.randn(1, 2, 512 // s, 512 // s).bfloat16() for name, s in STRIDES.items()}
    box = [torch.tensor([[401.0, 403, 431, 437]])]
    pooled = AlignedRoIPool(STRIDES, 7)(pyramid, box, [(512, 512)])
    expected = roi_align(pyramid["p2"].float(), box, 7, 1 / 4, aligned=True)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, expected.bfloat16())


def test_pooling_without_regions_is_empty(maps: dict[str, torch.Tensor]) -> None:
    assert AlignedRoIPool(STRIDES, 7)(maps, [torch.zeros(0, 4)] * 2, [(9, 9)] * 2).shape == (0, 3, 7, 7)


def test_initial_weights_are_those_of_detectron2() -> None:
    torch.manual_seed(0)
    box, mask = BoxPredictor(256, 80), MaskPredictor(64, 80)
    head = build_box_head(16, 7, 256, kind="2fc", norm="none")
    convs = build_mask_head(64, 64, norm="none")
    assert box.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert box.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert mask.logits.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert head.fc6.weight.abs().max().item() == pytest.approx((3 / 784) ** 0.5, rel=0.01)  # Caffe2's Xavier
    assert convs[0][0].weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)  # MSRA, fan out
    for module in (box, head, mask, convs):
        assert not any(value.any() for name, value in module.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_4conv1fc_head_has_four_convolutions_and_one_linear_layer(norm: Literal["none", "batch"]) -> None:
    torch.manual_seed(0)
    head = build_box_head(32, 7, 128, kind="4conv1fc", norm=norm)
    masks = build_mask_head(32, 48, norm=norm)
    assert head(torch.randn(2, 32, 7, 7)).shape == (2, 128)
    linear = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    convs = [layer for layer in [*head.modules(), *masks.modules()] if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in [*head.modules(), *masks.modules()] if isinstance(layer, nn.BatchNorm2d)]
    assert [layer.out_channels for layer in convs] == [32] * 4 + [48] * 4
    assert [layer.num_features for layer in norms] == ([] if norm == "none" else [32] * 4 + [48] * 4)
    assert all((layer.bias is None) == (norm == "batch") for layer in convs)
    assert convs[0].weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)  # MSRA, fan out
    assert linear[0].weight.abs().max().item() == pytest.approx((3 / (32 * 49)) ** 0.5, rel=0.01)  # Caffe2's Xavier
    assert not any(value.any() for value in head.parameters() if value.ndim == 1 and value[0] != 1)
