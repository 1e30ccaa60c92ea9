import pytest
import torch
from torch import nn
from torch.nn import functional as F

from afictl.comparison.cost.profiling import LiveMemory, peak_bytes, time_scatter

CPU = torch.device("cpu")
KB = 1024
X = torch.ones(256)  # one kilobyte
WIDE = torch.ones(64, 256)


def chain():
    a = X + 1
    b = a + 1  # two at once
    del a
    return b + 1  # two again


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda: X + 1, KB),
        (chain, 2 * KB),
        (lambda: X[:128], 0),  # a view of an existing tensor
        (lambda: X.clone().view(16, 16).t(), KB),  # views of a new tensor
        (lambda: X.clone().add_(1), KB),  # in place
        (lambda: WIDE.sum(1), 64 * 4),
        (lambda: torch.cat([X, X]).split(256), 2 * KB),
        (lambda: WIDE.max(1), 64 * 4 + 64 * 8),  # values and indices
        (lambda: [X + 1, X + 1][0], 2 * KB),
        (lambda: None, 0),
    ],
)
def test_peak_is_the_largest_sum_of_live_tensors(run, expected):
    assert peak_bytes(run, CPU) == expected


def test_freed_memory_is_no_longer_live():
    with LiveMemory() as memory:
        for _ in range(5):  # the same addresses again and again
            result = X + 1
        assert memory.live == KB
        view = result.view(-1)
        del result
        assert memory.live == KB
        del view
        assert memory.live == 0
    assert memory.peak == 2 * KB


def test_weights_inputs_and_buffers_do_not_count():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)).eval()
    image = torch.rand(1, 3, 16, 16)
    output = 8 * 16 * 16 * 4
    with torch.no_grad():
        assert peak_bytes(lambda: net(image), CPU) == 2 * output  # of the convolution and of the norm
        assert peak_bytes(lambda: F.relu_(image), CPU) == 0


def test_tensors_saved_for_the_backward_pass_are_live():
    weight = nn.Parameter(torch.ones(256))
    with LiveMemory() as memory:
        (weight.exp() * weight.sin()).sum().backward()
        # the gradient; both factors were saved for it
        assert memory.live == KB
    assert memory.peak >= 4 * KB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_on_large_tensors():
    device = torch.device("cuda")
    x = torch.ones(2**22, device=device)

    def run():
        return (x + 1) * 2

    with LiveMemory() as memory:
        run()
    assert peak_bytes(run, device) == memory.peak


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_does_not_count_lasting_workspaces():
    x = torch.ones(256, 256, device="cuda")
    torch._C._cuda_clearCublasWorkspaces()
    assert peak_bytes(lambda: x @ x, x.device) == x.nbytes


@pytest.mark.parametrize(
    ("seconds", "num_inputs", "expected"),
    [
        ([2.0] * 6, 1, 0.0),
        ([1.0], 1, 0.0),
        ([1.0, 10.0] * 3, 2, 0.0),  # inputs of different sizes
        ([0.8, 0.9, 1.0, 1.1, 1.2], 1, 0.2),
        ([1.0, 1.0, 1.0, 1.0, 9.0], 1, 0.0),  # one outlier, which the median ignores, too
    ],
)
def test_scatter_is_that_of_equal_computations(seconds, num_inputs, expected):
    assert time_scatter(seconds, num_inputs) == pytest.approx(expected)
