import json

import pytest
import torch
from torch.nn import functional as F

from afictl import UserError
from afictl.interpolators import AFInterpolator, PerStepInterpolator, build_interpolator, winograd
from afictl.weights.layouts.detectron2_names import generator_key
from tests.helpers.golden_files import apply_rule_h, assert_golden, golden_input, golden_names, read_golden


@pytest.fixture(scope="module")
def golden_interpolator():
    interpolator = AFInterpolator()
    apply_rule_h(interpolator, generator_key, "generator")
    return interpolator


@pytest.fixture(params=["direct", "winograd"])
def algorithm(request, monkeypatch):
    if request.param == "winograd":
        monkeypatch.setattr(winograd, "suits_winograd", lambda maps, out_channels: True)


@pytest.mark.usefixtures("algorithm")
@pytest.mark.parametrize("shape", [(2, 256, 7, 5), (1, 256, 1, 1), (1, 256, 13, 21)])
def test_output_equals_reference(golden_interpolator, shape):
    with torch.no_grad():
        output = golden_interpolator(golden_input(*shape))
    assert_golden("gen_disc", f"H.generator.{'x'.join(map(str, shape))}", output)


def test_every_layer_of_the_branch_equals_reference(golden_interpolator):
    net, maps = golden_interpolator, {}
    with torch.no_grad():
        # The input of a layer is the activated output of the one before it.
        for i, layer in enumerate((net.group, net.fuse, net.enlarge, net.tail)):
            layer.register_forward_pre_hook(lambda _, args, i=i: maps.update({i: args[0].clone()}))
        net.tail.register_forward_hook(lambda _, args, output: maps.update({4: output.clone()}))
        net(golden_input(2, 256, 7, 5))
    for i, value in maps.items():
        assert_golden("gen_disc", f"H.generator.stage{i}.2x256x7x5", value)
    assert sorted(maps) == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("algorithm")
def test_gradients_equal_reference(golden_interpolator):
    coarse = golden_input(1, 256, 3, 4).requires_grad_()
    golden_interpolator.zero_grad()
    loss = golden_interpolator(coarse).square().mean()
    loss.backward()
    torch.testing.assert_close(loss.detach().view(1), read_golden("gen_disc", "H.generator.grad.loss").values)
    assert_golden("gen_disc", "H.generator.grad.input_1x256x3x4", coarse.grad)
    gradients = {generator_key(name): p.grad.double() for name, p in golden_interpolator.named_parameters()}
    prefix = "H.generator.gradsum."
    assert {prefix + key for key in gradients} == set(golden_names("gen_disc", prefix))
    for key, gradient in gradients.items():
        total, magnitude = read_golden("gen_disc", prefix + key).values.tolist()
        assert gradient.abs().sum().item() == pytest.approx(magnitude, rel=1e-5)
        assert gradient.sum().item() == pytest.approx(total, abs=1e-5 * magnitude)


def test_parameter_count_is_the_published_one():
    assert sum(p.numel() for p in AFInterpolator().parameters()) == 7_834_624


@pytest.mark.parametrize(("init", "largest"), [("published", 1e-3), ("kaiming", 0.1)])
def test_fresh_interpolator_is_nearly_bilinear(init, largest):
    torch.manual_seed(0)
    coarse = torch.randn(1, 64, 6, 5)
    with torch.no_grad():
        enlarged = AFInterpolator(64, init=init)(coarse)
    bilinear = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    assert 0 < (enlarged - bilinear).abs().max() < largest


def test_published_weights_are_the_default_and_others_give_the_first_layers_a_larger_gradient():
    gradients = {}
    for init in ({}, {"init": "published"}, {"init": "kaiming"}):
        torch.manual_seed(0)
        interpolator, coarse = AFInterpolator(16, blocks=1, growth=4, **init), torch.randn(1, 16, 6, 5)
        interpolator(coarse).square().sum().backward()
        gradients[init.get("init")] = interpolator.head.weight.grad
    assert torch.equal(gradients[None], gradients["published"])
    assert gradients["kaiming"].norm() > 5 * gradients["published"].norm()


def test_initial_weights_are_no_part_of_the_shape(tmp_path):
    interpolator = build_interpolator("afi", 8, blocks=1, init="kaiming")
    assert interpolator.config == AFInterpolator(8, blocks=1).config
    interpolator.save(tmp_path / "afi.safetensors")
    interpolator.save_pretrained(tmp_path / "afi")
    assert json.loads((tmp_path / "afi" / "config.json").read_text()) == interpolator.config
    for loaded in (AFInterpolator.load(tmp_path / "afi.safetensors"), AFInterpolator.from_pretrained(tmp_path / "afi")):
        torch.testing.assert_close(loaded.state_dict(), interpolator.state_dict(), rtol=0, atol=0)
    PerStepInterpolator([interpolator, AFInterpolator(8, blocks=1)])  # one shape
    with pytest.raises(UserError, match="'afi': init must be published or kaiming, not 'zero'"):
        AFInterpolator(8, init="zero")


def test_bfloat16_autocast_stays_close(golden_interpolator):
    coarse = golden_input(2, 256, 7, 5)
    with torch.no_grad():
        exact = golden_interpolator(coarse)
        with torch.autocast("cpu", torch.bfloat16):
            rough = golden_interpolator(coarse)
            low = golden_interpolator(coarse.bfloat16())
    assert low.dtype == torch.bfloat16  # no hidden cast to float32 inside a low-precision neck
    assert (rough - exact).abs().max() < 0.02 * exact.std()
    assert (low - exact).abs().max() < 0.05 * exact.std()


def test_channels_last_gives_the_same():
    interpolator, coarse = AFInterpolator(16, blocks=1, growth=4), torch.randn(2, 16, 5, 3)
    expected = interpolator(coarse)
    actual = interpolator.to(memory_format=torch.channels_last)(coarse.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
