"""Accuracy of the discriminator on held-out pairs, and the size of its gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F

from afictl import PatchDiscriminator
from afictl.training.adversarial import Pair
from afictl.training.adversarial_report import AdversarialReport


def pair(offset, size=(6, 8), seed=0):
    """Noise, and noise around ``offset``; the mask leaves the last column out."""
    generator = torch.Generator().manual_seed(seed)
    fake, real = (torch.randn(1, 4, *size, generator=generator) for _ in range(2))
    mask = torch.ones(1, 1, *size)
    mask[..., size[1] - 1 :] = 0
    return Pair(fake, real + offset, mask)


def positive_where_the_first_channel_is():
    """A discriminator without batch norm whose logit is the first channel."""
    discriminator = PatchDiscriminator(4)
    with torch.no_grad():
        for conv in (*discriminator.convs, discriminator.logits):
            conv.weight.zero_()
            conv.weight[:2, :2, 1, 1] = torch.eye(2)[: conv.weight.shape[0]]
    return discriminator


def test_accuracy_counts_correct_positions_inside_the_image():
    discriminator = positive_where_the_first_channel_is()
    held_out = pair(offset=0.0)
    report = AdversarialReport(discriminator, weight=1e-3)
    report.add({"p3": held_out})

    def is_positive(values):
        channel = (values * held_out.mask)[:, :1]
        for _ in range(3):  # three batch norms; leaky ReLU keeps the sign
            channel = F.leaky_relu(
                (channel - channel.mean()) / (channel.var(correction=0) + 1e-5).sqrt(), negative_slope=0.2
            )
        return (channel > 0)[..., :-1]

    correct = torch.cat([is_positive(held_out.real), ~is_positive(held_out.fake)])
    assert report.metrics["discriminator_accuracy/p3"] == pytest.approx(float(correct.float().mean()))
    assert 0.3 < report.metrics["discriminator_accuracy/p3"] < 0.7
    with torch.no_grad():
        discriminator.logits.weight.neg_()
    inverted = AdversarialReport(discriminator, weight=1e-3)
    inverted.add({"p3": held_out})
    assert inverted.metrics["discriminator_accuracy"] == pytest.approx(1 - report.metrics["discriminator_accuracy"])


def test_gradient_is_that_of_the_two_terms():
    torch.manual_seed(0)
    discriminator, held_out = PatchDiscriminator(4), pair(0.0)
    report = AdversarialReport(discriminator, weight=0.25)
    report.add({"p4": held_out})
    fake = held_out.fake.clone().requires_grad_()
    inside = held_out.mask.bool()
    logits = discriminator(fake * held_out.mask)[inside]
    adversarial = 0.25 * F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    l1 = (fake - held_out.real).abs()[inside.expand_as(fake)].mean()
    norms = [torch.autograd.grad(loss, fake)[0].norm() for loss in (adversarial, l1)]
    assert report.metrics["adversarial_gradient"] == pytest.approx(float(norms[0] / norms[1]), rel=1e-4)
    fresh = AdversarialReport(discriminator, weight=0.0)
    fresh.add({"p4": held_out})
    assert fresh.metrics["adversarial_gradient"] == 0


def test_the_discriminator_is_not_changed():
    discriminator = PatchDiscriminator(4)
    before = copy.deepcopy(discriminator.state_dict())
    AdversarialReport(discriminator, weight=1.0).add({"p3": pair(0.0)})
    torch.testing.assert_close(discriminator.state_dict(), before, rtol=0, atol=0)
    assert discriminator.training
    assert all(value.requires_grad and value.grad is None for value in discriminator.parameters())


def test_a_level_of_one_position_is_left_out():
    report = AdversarialReport(PatchDiscriminator(4), weight=1.0)
    one = torch.randn(1, 4, 1, 1)
    report.add({"p6": Pair(one, one, torch.ones(1, 1, 1, 1))})
    assert report.metrics == {}
    assert "not measured" in report.describe()
    report.add({"p5": pair(0.0)})
    assert list(report.metrics) == [
        "discriminator_accuracy",
        "adversarial_gradient",
        "discriminator_accuracy/p5",
        "adversarial_gradient/p5",
    ]
    assert "p5" in report.describe()
    assert "p6" not in report.describe()
