from collections.abc import Callable

import pytest
import torch

from afictl import build_interpolator
from afictl.detectors import Detector, PartCost, build_detector, interpolator_cost, model_cost
from tests.helpers.targets import one_object


def cost_of(preset: str, interpolator: str) -> dict[str, PartCost]:
    with torch.device("meta"):
        detector = build_detector(preset, interpolator=interpolator)
    return {part.name: part for part in model_cost(detector, (800, 1333))}


@pytest.mark.parametrize(
    ("preset", "interpolator", "parameters"),
    [
        # totals of the same models in detectron2 and in the public AFI-GAN code
        ("mask-rcnn-r50-fpn", "nearest", 44_343_216),
        ("mask-rcnn-r50-fpn", "afi", 52_177_840),
        ("faster-rcnn-r50-fpn", "nearest", 41_699_936),
    ],
)
def test_parameters_are_those_of_the_reference_models(preset: str, interpolator: str, parameters: int) -> None:
    cost = cost_of(preset, interpolator)
    assert sum(part.parameters for part in cost.values()) == parameters


def test_multiply_adds_of_mask_rcnn_r50() -> None:
    cost = cost_of("mask-rcnn-r50-fpn", "afi")
    # 800x1333 is padded to 800x1344: the interpolator enlarges p5, p4 and p3.
    # 9_603_072 of the convolutions and four for each value of the bilinear part
    assert cost["interpolator"].multiply_adds == (9_603_072 + 4 * 4 * 256) * (25 * 42 + 50 * 84 + 100 * 168)
    assert cost["interpolator"].parameters == 7_834_624
    assert cost["box head"].multiply_adds == 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    pixels = 14 * 14
    head = 4 * pixels * 9 * 256 * 256 + pixels * 4 * 256 * 256 + 4 * pixels * 256 * 80
    assert cost["mask head"].multiply_adds == 100 * head
    positions = 200 * 336 + 100 * 168 + 50 * 84 + 25 * 42 + 13 * 21
    assert cost["rpn"].multiply_adds == positions * (9 * 256 * 256 + 256 * 15)


C, K, M, E = 256, 25, 64, 32
"""Channels, neighbours of a fine pixel, width of the networks that predict kernels, and of SAPA's embeddings."""
S = M + 8
"""Width of FreqFusion's compressed maps with the similarities to 8 neighbours."""


@pytest.mark.parametrize(
    ("kind", "multiply_adds"),
    [
        # multiply-adds for each coarse pixel, which is four fine ones
        ("nearest", 0),
        ("bilinear", 4 * 4 * C),
        ("bicubic", 4 * 16 * C),
        ("pixel-shuffle", 9 * C * 4 * C),
        # 199k operations in the paper: twice this, and the 64 + 100 biases
        ("carafe", C * M + 9 * M * 4 * K + 4 * K * C),
        # x and y of four pixels in four groups: predicted, scaled, turned into coordinates; then the sampling
        ("dysample", C * 32 + 32 + 32 + 4 * 4 * C),
        ("dysample-plus", 2 * C * 32 + 2 * 32 + 32 + 4 * 4 * C),
        # the same for eight groups, predicted from the pixel-shuffled map
        ("dysample-s", 4 * (C // 4) * 16 + 2 * 64 + 4 * 4 * C),
        ("dysample-s-plus", 2 * 4 * (C // 4) * 16 + 3 * 64 + 4 * 4 * C),
        ("soft-nearest", C),
        # compression, kernels, offsets and their coordinates; sampling of the kernels, sums
        ("dlu", C * M + 9 * M * (K + 8) + 8 + 4 * 4 * K + 4 * K * C),
        # query and key, the enlarged query and its scale; depthwise convolution and offsets of nine points, their range
        # and coordinates; sampling of keys and products with them, sampling of the map and sums
        ("lda-aqu", 2 * C * M + 20 * M + 36 * M * 19 + 2 * 4 * 36 + 9 * 4 * 5 * (M + C)),
        # compressions; kernels twice; filters of the compressed maps; similarities, offsets, their product and their
        # coordinates; filters of both maps, sampling
        (
            "freqfusion",
            (4 + 1) * C * M
            + 2 * 36 * M * (K + 9)
            + 4 * (K + 9) * M
            + (4 + 1) * 9 * M
            + 9 * S * (2 * 32 + 4 * 2 * 8)
            + 2 * 32
            + 4 * (K + 9) * C
            + 4 * 4 * C,
        ),
        # embeddings of both maps, similarities, sums
        ("sapa", (4 + 1) * C * E + 4 * K * E + 4 * K * C),
        # compression and kernels of both maps, sums, the gate, and the mix by it: on kernels and on the fine map
        ("fade", (4 + 1) * (C * M + 9 * M * K) + 4 * K * C + C + 4 * K + 4 * C),
    ],
)
def test_all_multiply_adds_of_an_interpolator_are_counted(kind: str, multiply_adds: int) -> None:
    with torch.device("meta"):
        interpolator = build_interpolator(kind, C)
        coarse, fine = torch.empty(2, C, 5, 7), torch.empty(2, C, 10, 14)
    with torch.no_grad():
        assert interpolator_cost(interpolator, coarse, fine) == 2 * 5 * 7 * multiply_adds


@pytest.mark.parametrize(
    ("kind", "published"),
    # of FADE's paper, 2.65, without the half per cent that its gate and norms may be
    [("carafe", "1.45"), ("sapa", "1.02"), ("fade", "2.64")],
)
def test_multiply_adds_in_segformer_are_the_published_ones(kind: str, published: str) -> None:
    """Giga multiply-adds that the tables of SAPA and FADE add for SegFormer on 512 x 512 pixels.

    Its maps at strides 32, 16 and 8 are enlarged in three, two and one steps of 256 channels.
    """
    with torch.device("meta"):
        interpolator = build_interpolator(kind, 256)
        calls = [(side, 2 * side) for side in (16, 32, 32, 64, 64, 64)]
        multiply_adds = sum(
            interpolator_cost(interpolator, torch.empty(1, 256, h, h), torch.empty(1, 256, w, w)) for h, w in calls
        )
    assert f"{multiply_adds / 1e9:.2f}" == published


def test_padding_of_the_transposed_convolution_is_counted() -> None:
    with torch.device("meta"):
        interpolator, coarse = build_interpolator("transposed-conv", C), torch.empty(1, C, 50, 84)
    assert interpolator_cost(interpolator, coarse) == (50 + 2) * (84 + 2) * 16 * C * C


def test_nearest_costs_nothing_and_changes_nothing_else() -> None:
    afi, nearest = (cost_of("faster-rcnn-r50-fpn", kind) for kind in ("afi", "nearest"))
    assert nearest["interpolator"] == PartCost("interpolator", "", 0, 0)
    assert {name: part for name, part in afi.items() if name != "interpolator"} == {
        name: part for name, part in nearest.items() if name != "interpolator"
    }
    assert list(nearest) == ["backbone", "neck", "interpolator", "rpn", "box head"]


def test_counting_leaves_the_detector_unchanged(build: Callable[..., Detector]) -> None:
    detector = build()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    model_cost(detector, (64, 96))
    assert detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert len(detector([torch.rand(3, 64, 64)], [one_object(64, 64, label=1)])) == 5


def test_head_without_cost_parts_is_named(build: Callable[..., Detector]) -> None:
    detector = build("fcos")
    detector.head = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity"):
        model_cost(detector, (64, 64))
