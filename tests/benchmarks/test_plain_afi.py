import torch

from afictl import AFInterpolator
from benchmarks.plain_afi import PlainAFInterpolator
from tests.helpers.reference_loops import randomise


def test_plain_form_has_weights_output_and_gradients_of_the_interpolator():
    interpolator = randomise(AFInterpolator(8, blocks=2, growth=3), 0.2)
    plain = PlainAFInterpolator(8, blocks=2, growth=3)
    plain.load_state_dict(interpolator.state_dict())
    coarse = torch.randn(2, 8, 5, 7, requires_grad=True)
    target = torch.randn(2, 8, 10, 14)
    outputs, gradients = [], []
    for module in (plain, interpolator):
        outputs.append(module(coarse))
        gradients.append(torch.autograd.grad((outputs[-1] * target).sum(), [coarse, *module.parameters()]))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    for actual, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)
