import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from afictl.interpolators.reassembly import reassemble, similarities, to_planes
from tests.helpers import reference_loops as loops

FACTORS = pytest.mark.parametrize("factor", [2, 1], ids=["enlarged", "filtered"])


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@FACTORS
@pytest.mark.parametrize(("size", "shape"), [(1, (2, 3)), (3, (1, 1)), (5, (3, 4)), (5, (1, 2))])
def test_weighted_sums_are_those_of_the_loop(size, shape, factor):
    coarse, kernels = random(2, 3, *shape), random(2, size * size, *(factor * side for side in shape))
    expected = loops.reassembled(coarse, kernels, factor)
    torch.testing.assert_close(reassemble(coarse, to_planes(kernels, factor)), expected)


@FACTORS
@pytest.mark.parametrize(("size", "shape"), [(1, (2, 3)), (3, (1, 1)), (5, (3, 4))])
def test_similarities_are_those_of_the_loop(size, shape, factor):
    coarse, fine = random(2, 3, *shape), random(2, 3, *(factor * side for side in shape))
    expected = fine.new_zeros(2, size * size, *fine.shape[-2:])
    for i, y, x in loops.fine_pixels(coarse, factor):
        near = loops.window(coarse[i], y // factor, x // factor, size)
        expected[i, :, y, x] = torch.stack([fine[i, :, y, x] @ value for value in near])
    torch.testing.assert_close(similarities(fine, coarse, size), to_planes(expected, factor))


def test_planes_hold_the_four_pixels_row_by_row():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    planes = to_planes(fine, 2)
    assert planes[0, 0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert planes[0, 0, 2].tolist() == [[4, 6], [12, 14]]
    torch.testing.assert_close(F.pixel_shuffle(planes.flatten(1, 2), 2), fine)


@FACTORS
def test_gradients_are_the_derivatives(factor):
    coarse, fine = random(2, 2, 2, 3).requires_grad_(), random(2, 2, factor * 2, factor * 3).requires_grad_()
    kernels = random(2, 9, factor * factor, 2, 3).requires_grad_()
    assert gradcheck(reassemble, (coarse, kernels))
    assert gradcheck(lambda *maps: similarities(*maps, 3), (fine, coarse))


def test_more_channels_than_are_worked_on_at_once():
    coarse = random(1, 130, 2, 3).requires_grad_()
    kernels = random(1, 9, 4, 2, 3).requires_grad_()
    wide = reassemble(coarse, kernels)
    parts = torch.cat([reassemble(coarse[:, i : i + 10], kernels) for i in range(0, 130, 10)], dim=1)
    torch.testing.assert_close(wide, parts)
    grads = [torch.autograd.grad(x.square().sum(), (coarse, kernels)) for x in (wide, parts)]
    torch.testing.assert_close(*grads)
    grads = [torch.autograd.grad(similarities(x, coarse, 3).sum(), coarse)[0] for x in (wide.detach(), parts.detach())]
    torch.testing.assert_close(*grads)


def test_bfloat16_maps_are_summed_in_float32():
    coarse = random(1, 2, 6, 6).bfloat16()
    kernels = torch.full((1, 25, 4, 6, 6), 1 / 25)
    enlarged = reassemble(coarse, kernels)
    assert enlarged.dtype == torch.bfloat16
    assert torch.equal(enlarged, reassemble(coarse.float(), kernels).bfloat16())  # rounded once, not 25 times
    assert similarities(enlarged, coarse, 5).dtype == torch.float32
