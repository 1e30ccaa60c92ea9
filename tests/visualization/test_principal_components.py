"""Principal components of several maps together, against a singular value decomposition."""

import numpy as np
import torch

from afictl.visualization.principal_components import PrincipalComponents


def maps(seed=0, channels=6):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(channels, channels, generator=generator)
    return [
        torch.einsum("dc,chw->dhw", mix, torch.randn(channels, h, w, generator=generator)) for h, w in ((5, 7), (3, 4))
    ]


def test_components_equal_those_of_a_singular_value_decomposition():
    pooled = torch.cat([value.flatten(1).T for value in maps()]).double().numpy()
    centred = pooled - pooled.mean(axis=0)
    expected = np.linalg.svd(centred, full_matrices=False)[2][:3]
    expected *= np.sign(expected[np.arange(3), np.abs(expected).argmax(axis=1)])[:, None]
    components = PrincipalComponents.fit(maps())
    np.testing.assert_allclose(components.axes.numpy(), expected, atol=1e-6)
    values = centred @ expected.T
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    normalized = np.concatenate([components.normalized(value).reshape(-1, 3) for value in maps()])
    np.testing.assert_allclose(normalized, (values - low) / (high - low), atol=1e-6)


def test_equal_features_have_equal_colours_in_every_map():
    first, second = maps()
    second[:, 1, 2] = first[:, 4, 0]
    components = PrincipalComponents.fit([first, second])
    np.testing.assert_allclose(components.normalized(second)[1, 2], components.normalized(first)[4, 0])


def test_constant_and_narrow_maps_give_finite_components():
    assert np.isfinite(PrincipalComponents.fit([torch.ones(8, 2, 2)]).normalized(torch.ones(8, 1, 1))).all()
    assert PrincipalComponents.fit([torch.rand(2, 4, 4)]).normalized(torch.rand(2, 4, 4)).shape == (4, 4, 3)
