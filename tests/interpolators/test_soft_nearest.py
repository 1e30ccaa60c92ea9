import torch

from afictl import build_interpolator


def test_it_is_nearest_times_one_learned_factor():
    soft, coarse = build_interpolator("soft-nearest", 2), torch.randn(1, 2, 3, 4)
    nearest = build_interpolator("nearest", 2)(coarse)
    torch.testing.assert_close(soft(coarse), nearest / 4)  # the ratio of the resolutions
    assert sum(p.numel() for p in soft.parameters()) == 1
    soft(coarse).sum().backward()
    torch.testing.assert_close(soft.factor.grad, nearest.sum().view(1))


def test_bfloat16_maps_stay_bfloat16():
    coarse = torch.randn(1, 2, 3, 4).bfloat16()
    assert build_interpolator("soft-nearest", 2)(coarse).dtype == torch.bfloat16
