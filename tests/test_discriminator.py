import pytest
import torch

from afictl import PatchDiscriminator
from afictl.interpolators import winograd
from afictl.weights.layouts.detectron2_names import discriminator_key
from tests.helpers.golden_files import apply_rule_h, assert_golden, golden_input


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
def test_outputs_and_running_statistics_equal_reference(algorithm, monkeypatch):
    if algorithm == "winograd":
        monkeypatch.setattr(winograd, "suits_winograd", lambda maps, out_channels: True)
    discriminator = PatchDiscriminator()
    apply_rule_h(discriminator, discriminator_key, "discriminator")
    features = golden_input(2, 256, 14, 10)
    with torch.no_grad():
        assert_golden("gen_disc", "H.disc.eval", discriminator.eval()(features))
        assert_golden("gen_disc", "H.disc.train", discriminator.train()(features))
        for name, buffer in discriminator.named_buffers():
            assert_golden("gen_disc", f"H.disc.after_train.{discriminator_key(name)}", buffer)
        assert_golden("gen_disc", "H.disc.eval_after_train", discriminator.eval()(features))


def test_parameter_count_is_the_published_one():
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 15_352_321


@pytest.mark.parametrize("size", [(1, 1), (5, 3)])
def test_one_logit_for_every_position(size):
    assert PatchDiscriminator(4).eval()(torch.randn(2, 4, *size)).shape == (2, 1, *size)
