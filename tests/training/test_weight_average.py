"""The moving average of weights."""

import pytest
import torch
from torch import nn

from afictl.training.weight_average import build_weight_average


@pytest.mark.parametrize("decay", [0.15, 0.999])
def test_the_average_forgets_with_the_smaller_of_decay_and_warm_up(decay):
    module = nn.BatchNorm1d(1)
    average = build_weight_average(module, decay)
    expected = 0.0
    for n in range(5):
        value = float(n * n)
        for tensor in (module.weight, module.running_mean):
            nn.init.constant_(tensor, value)
        average.update_parameters(module)
        factor = min(decay, (1 + n) / (10 + n)) if n else 0.0
        expected = factor * expected + (1 - factor) * value
    assert float(average.module.weight) == pytest.approx(expected)
    assert float(average.module.running_mean) == pytest.approx(expected)
    assert module.weight.requires_grad
    assert torch.equal(module.weight.detach(), torch.full((1,), 16.0))
