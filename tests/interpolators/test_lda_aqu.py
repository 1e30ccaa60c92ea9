import pytest
import torch
from torch.nn import functional as F

from afictl import UserError, build_interpolator
from tests.helpers import reference_loops as loops


@torch.no_grad()
def test_equals_the_definition_of_the_paper():
    torch.manual_seed(0)
    lda = loops.randomise(build_interpolator("lda-aqu", 8, reduction=2, groups=2, offset_range=2.5).double())
    coarse = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    normed = lda.norm(coarse.movedim(1, -1)).movedim(-1, 1)
    queries = F.interpolate(lda.query(normed), scale_factor=2.0, mode="bilinear", align_corners=True)
    keys, expected = lda.key(normed), torch.zeros(1, 8, 6, 8, dtype=torch.float64)
    offsets = [offsets_of(lda, queries[:, 2 * group : 2 * group + 2]) for group in range(2)]
    for i, y, x in loops.fine_pixels(coarse):
        logits, values = [], []
        for k in range(9):
            near_key, near_value = [], []
            for group in range(2):
                dy, dx = 2.5 * offsets[group][i, 2 * k : 2 * k + 2, y, x].tanh()
                # the corners of both maps are aligned: 6 fine rows span 3 coarse ones
                row, column = (y + k // 3 - 1 + dy) * 2 / 5, (x + k % 3 - 1 + dx) * 3 / 7
                near_key.append(loops.sampled(keys[i, 2 * group :][:2], row, column, "zero"))
                near_value.append(loops.sampled(coarse[i, 4 * group :][:4], row, column, "zero"))
            logits.append(queries[i, :, y, x] @ (torch.cat(near_key) + lda.position_bias[k]) / 2)
            values.append(torch.cat(near_value))
        expected[i, :, y, x] = torch.stack(logits).softmax(0) @ torch.stack(values)
    torch.testing.assert_close(lda(coarse), expected)


def offsets_of(lda, queries):
    """Outputs of the offset network of one group: y and x of each neighbour."""
    features = lda.offset_norm(lda.offset_features(queries).movedim(1, -1)).movedim(-1, 1)
    return lda.offset(F.gelu(features))


def test_parameter_count_is_the_published_one():
    # Norm, query and key, positions; depthwise convolution, its norm, and y and x of nine points. About 39 k published.
    parameters = 2 * 256 + 2 * 256 * 64 + 9 * 64 + 9 * 32 + 2 * 32 + (9 * 32 + 1) * 18
    assert sum(p.numel() for p in build_interpolator("lda-aqu", 256).parameters()) == parameters == 39_410


@torch.no_grad()
def test_with_equal_attention_a_constant_map_stays_inside():
    lda = build_interpolator("lda-aqu", 8)
    torch.nn.init.zeros_(lda.query.weight)
    torch.nn.init.zeros_(lda.offset.weight)
    enlarged = lda(torch.ones(1, 8, 4, 5))
    torch.testing.assert_close(enlarged[..., 1:-1, 1:-1], torch.ones(1, 8, 6, 8))
    assert (enlarged[..., 0, :] < 1).all()  # zeros outside


def test_reduction_and_groups_must_divide_the_channels():
    with pytest.raises(UserError, match=r"'lda-aqu': reduction \* groups=8 .* 12 channels"):
        build_interpolator("lda-aqu", 12)
