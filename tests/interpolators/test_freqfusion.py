import pytest
import torch
from torch.nn import functional as F

from afictl import build_interpolator
from afictl.necks import build_neck
from afictl.presets import FPNConfig
from tests.helpers import reference_loops as loops
from tests.helpers.backbone_maps import NARROW, features

OPTIONS = {"low_pass_kernel": 3, "compressed_channels": 4, "groups": 2}


def details(fine, kernels):
    """The fine map minus its weighted mean."""
    return fine - loops.reassembled(fine, kernels, factor=1)


def similarities(maps):
    """Cosines with the 8 neighbours, row by row."""
    out = maps.new_zeros(len(maps), 8, *maps.shape[2:])
    for i, y, x in loops.fine_pixels(maps, factor=1):
        near = list(loops.window(maps[i], y, x, 3))
        out[i, :, y, x] = torch.stack([F.cosine_similarity(near[4], near[k], dim=0) for k in range(9) if k != 4])
    return out


def predicted_kernels(module, fusion):
    """Low-pass kernels, zero-padded to an even size for ``loops.reassembled``, and smoothing kernels."""
    low_pass, smoothing = module.low_pass(fusion).softmax(1), module.high_pass(fusion).softmax(1)
    return F.pad(low_pass, (0, fusion.shape[3] % 2, 0, fusion.shape[2] % 2)), smoothing


@pytest.mark.parametrize("fine_hw", [(6, 8), (5, 7)], ids=str)
@torch.no_grad()
def test_equals_the_definition_of_the_paper(fine_hw):
    torch.manual_seed(0)
    module = loops.randomise(build_interpolator("freqfusion", 6, **OPTIONS).double())
    coarse, fine = (torch.randn(2, 6, *hw, dtype=torch.float64) for hw in ((3, 4), fine_hw))
    inside = (..., slice(fine_hw[0]), slice(fine_hw[1]))
    small, large = module.compress_coarse(coarse), module.compress_fine(fine)
    low_pass, smoothing = predicted_kernels(module, F.interpolate(small, scale_factor=2)[inside] + large)
    fusion = loops.reassembled(small, low_pass)[inside] + large + details(large, smoothing)
    low_pass, smoothing = predicted_kernels(module, fusion)
    enlarged = loops.reassembled(coarse, low_pass)[inside]

    def predict(name):
        """The sum of a coarse and a fine prediction of directions or magnitudes: x, then y, of both groups."""
        inputs = [torch.cat((maps, similarities(maps)), dim=1) for maps in (small, fusion)]
        predictors = (getattr(part, name) for part in (module.coarse_offset, module.fine_offset))
        from_coarse, from_fine = (predictor(values) for predictor, values in zip(predictors, inputs, strict=True))
        return F.pixel_shuffle(from_coarse, 2)[inside] + from_fine

    offset = predict("direction") * predict("magnitude").sigmoid()
    expected = details(fine, smoothing)
    for i, y, x in loops.fine_pixels(fine, factor=1):
        for group in range(2):
            channels = slice(3 * group, 3 * group + 3)
            dx, dy = offset[i, group, y, x].item(), offset[i, 2 + group, y, x].item()
            expected[i, channels, y, x] += loops.sampled(enlarged[i, channels], y + dy, x + dx)
    torch.testing.assert_close(module(coarse, fine)[inside], expected)


def test_parameter_count_is_the_published_one():
    # Two compressions, low-pass and high-pass kernels, direction and magnitude of the offsets (x and y of four groups)
    # of the four fine pixels of a coarse one and of a fine one. About 104 k published.
    parameters = 2 * (256 * 64 + 64) + (9 * 64 + 1) * (25 + 9) + (9 * 72 + 1) * 2 * (2 * 4 * 4 + 2 * 4)
    assert sum(p.numel() for p in build_interpolator("freqfusion", 256).parameters()) == parameters == 104_434


@torch.no_grad()
def test_fresh_interpolator_is_nearly_a_mean_plus_the_details_of_the_fine_map():
    torch.manual_seed(0)
    coarse, fine = torch.randn(1, 8, 5, 6), torch.randn(1, 8, 10, 12)
    mean = F.interpolate(F.avg_pool2d(coarse, 5, stride=1, padding=2), scale_factor=2.0)
    expected = mean + fine - F.avg_pool2d(fine, 3, stride=1, padding=1)
    torch.testing.assert_close(build_interpolator("freqfusion", 8)(coarse, fine), expected, atol=0.05, rtol=0)


@torch.no_grad()
def test_a_neck_that_sums_computes_the_sum_of_the_paper():
    """Enlarged map, fine map and its details."""
    torch.manual_seed(0)
    module = build_interpolator("freqfusion", 8, **OPTIONS)
    neck, maps = build_neck(FPNConfig(channels=8), NARROW, module), features(NARROW, 133, 171, images=1)
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append((*inputs, output)))
    level = neck(maps)["p2"]
    _, fine, output = calls[-1]
    height, width = fine.shape[2:]
    expected = neck.output_convs["p2"](fine + output[..., :height, :width])
    torch.testing.assert_close(level, expected)
