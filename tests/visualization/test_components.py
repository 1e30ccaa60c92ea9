"""Principal components of several maps together, against numpy's singular value decomposition."""

import numpy as np
import torch

from afictl.visualization.components import Components


def maps(seed=0, channels=6):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator)
    return [
        torch.einsum("dc,chw->dhw", mix, torch.randn(channels, h, w, generator=generator)) for h, w in ((5, 7), (3, 4))
    ]


def test_as_by_a_singular_value_decomposition():
    pooled = torch.cat([value.flatten(1).T for value in maps()]).double().numpy()
    centred = pooled - pooled.mean(axis=0)
    expected = np.linalg.svd(centred, full_matrices=False)[2][:3]
    expected *= np.sign(expected[np.arange(3), np.abs(expected).argmax(axis=1)])[:, None]
    fitted = Components.fitted(maps())
    np.testing.assert_allclose(fitted.axes.numpy(), expected, atol=1e-6)
    values = centred @ expected.T
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    shares = np.concatenate([fitted.shares(value).reshape(-1, 3) for value in maps()])
    np.testing.assert_allclose(shares, (values - low) / (high - low), atol=1e-6)


def test_the_same_feature_has_the_same_colour_in_every_map():
    first, second = maps()
    second[:, 1, 2] = first[:, 4, 0]
    fitted = Components.fitted([first, second])
    np.testing.assert_allclose(fitted.shares(second)[1, 2], fitted.shares(first)[4, 0])


def test_constant_and_narrow_maps():
    assert np.isfinite(Components.fitted([torch.ones(8, 2, 2)]).shares(torch.ones(8, 1, 1))).all()
    assert Components.fitted([torch.rand(2, 4, 4)]).shares(torch.rand(2, 4, 4)).shape == (4, 4, 3)
