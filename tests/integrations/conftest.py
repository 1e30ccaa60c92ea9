import copy
import pickle

import pytest
import torch

from afictl import AFInterpolator, build_interpolator, substitute_interpolator
from tests.helpers.substitution_checks import assert_equal


@pytest.fixture
def assert_substitutes():
    """Check everything that holds for a model of any library.

    ``model`` is in eval mode, ``compute(model)`` a flat list of tensors that depend on the pyramid, ``pyramid(model)``
    the module that gets the interpolator, of ``channels``; ``loss(model)`` a scalar in train mode.
    """

    def check(model, compute, pyramid, channels, steps, loss):
        original, before = copy.deepcopy(model), compute(model)
        names = list(model.state_dict())
        nearest = substitute_interpolator(model, build_interpolator("nearest", channels))
        assert nearest == sum(step.runs for step in nearest.replaced) == steps
        assert [model.get_submodule(step.path) for step in nearest.replaced] == [pyramid(model)]
        assert_equal(compute(model), before)
        assert list(model.state_dict()) == names  # nearest has no weights
        afi = AFInterpolator(channels, blocks=1, growth=4)
        assert substitute_interpolator(model, afi) == steps
        assert pyramid(model).interpolator is afi
        assert_only_interpolator_is_new(model, original)
        learned = compute(model)
        assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(learned, before, strict=True))
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_equal(compute(twin), learned)
        substitute_interpolator(model, "bicubic").undo()
        assert pyramid(model).interpolator is afi
        assert_equal(compute(model), learned)
        model.train()
        loss(model).backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in afi.parameters())

    return check


def assert_only_interpolator_is_new(model, original):
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    missing, unexpected = model.load_state_dict(original.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".interpolator." in name for name in missing)
