"""SAPA and FADE, which need the fine map."""

import pytest
import torch

from afictl import UserError, build_interpolator
from tests.helpers import reference_loops as loops

SIZES = pytest.mark.parametrize("fine_hw", [(6, 8), (5, 7), (6, 7)], ids=str)


def maps(fine_hw):
    torch.manual_seed(0)
    return torch.randn(2, 6, 3, 4), torch.randn(2, 6, *fine_hw)


@SIZES
@torch.no_grad()
def test_sapa_equals_the_definition_of_the_paper(fine_hw):
    coarse, fine = maps(fine_hw)
    sapa = loops.randomise(build_interpolator("sapa", 6, up_kernel=3, embedding_channels=4))
    queries = sapa.embed_fine(sapa.norm_fine(fine.movedim(1, -1)))
    keys = sapa.embed_coarse(sapa.norm_coarse(coarse.movedim(1, -1))).movedim(-1, 1)
    kernels = coarse.new_zeros(2, 9, 6, 8)
    for i, y, x in loops.fine_pixels(coarse):
        if y < fine_hw[0] and x < fine_hw[1]:
            neighbours = loops.window(keys[i], y // 2, x // 2, 3)
            kernels[i, :, y, x] = torch.stack([queries[i, y, x] @ key for key in neighbours]).softmax(0)
    expected = loops.reassembled(coarse, kernels)[..., : fine_hw[0], : fine_hw[1]]
    torch.testing.assert_close(sapa(coarse, fine)[..., : fine_hw[0], : fine_hw[1]], expected)


@SIZES
@torch.no_grad()
def test_fade_equals_the_definition_of_the_paper(fine_hw):
    coarse, fine = maps(fine_hw)
    fade = loops.randomise(build_interpolator("fade", 6, up_kernel=3, compressed_channels=4))
    fine_maps, coarse_maps = fade.compress_fine(fine), fade.compress_coarse(coarse)
    kernels = coarse.new_zeros(2, 9, 6, 8)
    gates = coarse.new_zeros(2, 1, 6, 8)
    for i, y, x in loops.fine_pixels(coarse):
        # the one kernel slides over the fine map and over the coarse map, with its bias on both
        logits = loops.convolved(fine_maps[i], fade.encode, y, x) + fade.encode.bias
        logits += loops.convolved(coarse_maps[i], fade.encode, y // 2, x // 2) + fade.encode.bias
        kernels[i, :, y, x] = logits.softmax(0)
        gates[i, :, y, x] = fade.gate(coarse[i])[:, y // 2, x // 2].sigmoid()
    inside = (..., slice(fine_hw[0]), slice(fine_hw[1]))
    expected = gates[inside] * fine + ((1 - gates) * loops.reassembled(coarse, kernels))[inside]
    torch.testing.assert_close(fade(coarse, fine)[inside], expected)


@pytest.mark.parametrize(
    ("kind", "parameters", "published"),
    [
        # Two layer norms and two linear layers. SAPA's table for Faster R-CNN: +0.05 M, three modules.
        ("sapa", 2 * (2 * 256 + 256 * 32 + 32), (3, "0.05")),
        # Two compressions, the kernel that both maps share, the gate. FADE's table for SegFormer: +0.29 M, six modules.
        ("fade", 2 * 256 * 64 + 64 + 64 * 25 * 9 + 25 + 256 + 1, (6, "0.29")),
    ],
)
def test_parameter_count_is_the_published_one(kind, parameters, published):
    assert sum(p.numel() for p in build_interpolator(kind, 256).parameters()) == parameters
    modules, millions = published
    assert f"{modules * parameters / 1e6:.2f}" == millions


@pytest.mark.parametrize("kind", ["sapa", "fade", "freqfusion"])
def test_missing_or_misfitting_fine_map_is_refused(kind):
    interpolator, coarse = build_interpolator(kind, 8), torch.randn(1, 8, 3, 4)
    with pytest.raises(UserError, match=f"'{kind}' .*coarse, fine"):
        interpolator(coarse)
    for height, width in ((4, 8), (7, 8), (6, 6)):
        with pytest.raises(UserError, match=f"3x4 and {height}x{width}"):
            interpolator(coarse, torch.randn(1, 8, height, width))
