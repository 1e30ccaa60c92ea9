import pytest
import torch
from torch.nn import functional as F

from afictl import build_detector
from afictl.interpolators import AFInterpolator, winograd
from afictl.interpolators.winograd import Conv3x3, TransposedConv6x6, suits_winograd
from tests.helpers.narrow_presets import narrow_preset


@pytest.fixture
def forced(monkeypatch):
    """Winograd's algorithm for maps of any size, in strips of few tiles."""
    monkeypatch.setattr(winograd, "suits_winograd", lambda maps, out_channels: True)
    monkeypatch.setattr(winograd, "_STRIP", 4)


def channels_last(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def gradients(run, maps, module):
    maps = maps.requires_grad_()
    output = run(maps)
    gradient = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    return output, torch.autograd.grad((output * gradient).sum(), [maps, *module.parameters()])


# strips: of several images; of several rows; of one row; one incomplete tile
@pytest.mark.parametrize("shape", [(5, 3, 4, 3), (2, 3, 19, 6), (2, 3, 9, 22), (1, 3, 1, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("forced")
def test_output_and_gradients_are_those_of_the_direct_convolution(shape, bias):
    torch.manual_seed(0)
    conv = Conv3x3(3, 2, bias=bias).double()
    maps = channels_last(*shape, dtype=torch.float64)
    expected = gradients(lambda maps: F.conv2d(maps, conv.weight, conv.bias, padding=1), maps, conv)
    torch.testing.assert_close(gradients(conv, maps, conv), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("forced")
def test_transposed_convolution_is_a_convolution_with_pixel_shuffle():
    torch.manual_seed(0)
    conv = TransposedConv6x6(3).double()
    maps = channels_last(2, 3, 5, 6, dtype=torch.float64)

    def direct(maps):
        return F.conv_transpose2d(maps, conv.weight, conv.bias, stride=2, padding=2)

    expected = gradients(direct, maps, conv)
    torch.testing.assert_close(gradients(conv, maps, conv), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("forced")
def test_output_channels_in_parts_give_the_same_result(monkeypatch):
    torch.manual_seed(0)
    maps, conv = channels_last(1, 4, 9, 10, dtype=torch.float64), Conv3x3(4, 6).double()
    expected = gradients(conv, maps, conv)
    monkeypatch.setattr(winograd, "_MAX_KERNEL_VALUES", 36 * 4 * 2)
    torch.testing.assert_close(gradients(conv, maps, conv), expected)


@pytest.fixture
def algorithm_calls(monkeypatch):
    """Shapes of the maps that are convolved by Winograd's algorithm."""
    shapes, forward = [], winograd._Winograd.forward
    monkeypatch.setattr(
        winograd._Winograd, "forward", lambda maps, weight: shapes.append(tuple(maps.shape)) or forward(maps, weight)
    )
    return shapes


def test_the_format_decides_where_the_map_is_large(algorithm_calls):
    conv = Conv3x3(128, 128)
    with torch.no_grad():
        conv(torch.randn(1, 128, 48, 44))
        assert not algorithm_calls
        conv(channels_last(1, 128, 48, 44))
    assert algorithm_calls == [(1, 128, 48, 44)]


def test_rounding_error_is_small():
    torch.manual_seed(0)
    maps, conv = channels_last(1, 128, 48, 44), Conv3x3(128, 128)
    assert suits_winograd(maps, 128)
    with torch.no_grad():
        exact = F.conv2d(maps.double(), conv.weight.double(), conv.bias.double(), padding=1)
        assert (conv(maps) - exact).abs().max() < 2e-5 * exact.std()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 256, 25, 42), torch.float32),  # a small map
        ((1, 64, 100, 168), torch.float32),  # a narrow one
        ((200, 256, 3, 5), torch.float32),  # tiles mostly of padding
        ((1, 256, 100, 168), torch.bfloat16),
    ],
)
def test_other_maps_are_convolved_directly(shape, dtype):
    assert not suits_winograd(torch.empty(1, dtype=dtype).expand(shape), 256)


def test_autocast_and_other_devices_compute_directly():
    maps = torch.empty(1).expand(1, 256, 100, 168)
    assert suits_winograd(maps, 256)
    assert not suits_winograd(maps.to("meta"), 256)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits_winograd(maps, 256)


def test_format_of_the_map_stays():
    interpolator = AFInterpolator(128, blocks=1, growth=8)
    maps = torch.randn(1, 128, 48, 44)
    with torch.no_grad():
        assert interpolator(maps).is_contiguous()
        assert interpolator(maps.contiguous(memory_format=torch.channels_last)).is_contiguous(
            memory_format=torch.channels_last
        )


@pytest.mark.parametrize("sharing", ["shared", "per-step"])
def test_checkpointing_gives_the_same_gradients_with_less_memory(sharing):
    results = []
    for checkpointing in (False, True):
        settings = [f"interpolator.checkpointing={checkpointing}".lower(), f"neck.interpolators={sharing}"]
        torch.manual_seed(0)
        detector = build_detector(narrow_preset("faster-rcnn-r18-fpn-tiny", *settings), 3, "afi").train()
        saved = {}

        def save(tensor, saved=saved):
            if not tensor.is_leaf:  # neither weights nor inputs
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        features = {
            name: torch.randn(1, channels, 64 // 2**i, 64 // 2**i)
            for i, (name, channels) in enumerate(detector.backbone.channels.items())
        }
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            loss = sum(value.square().mean() for value in detector.neck(features).values())
        loss.backward()
        results.append((sum(saved.values()), [value.grad for value in detector.neck.parameters()]))
        assert detector.preset.interpolator.checkpointing is checkpointing
    (memory, expected), (checkpointed_memory, actual) = results
    assert checkpointed_memory < 0.6 * memory
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
