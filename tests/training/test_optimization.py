"""Optimizers and learning rates."""

import copy

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from timm.layers import RmsNorm2d
from torch import nn

from afictl import build_detector
from afictl.presets import Recipe
from afictl.training.optimization import (
    TrainableModule,
    build_optimizer,
    learning_rate,
    schedule_warnings,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 1e-6),  # detectron2's warm-up starts at a thousandth
        (500, 1e-3 * (0.001 + 0.999 * 0.5)),
        (1000, 1e-3),
        (269_999, 1e-3),
        (270_000, 1e-4),  # the drop of the published stage 1
    ],
)
def test_multistep_rates_are_those_of_the_published_stage_1(step, rate):
    recipe = Recipe(steps=300_000, batch_size=8, lr=1e-3, milestones=(270_000,), warmup_steps=1000)
    assert learning_rate(recipe, step) == pytest.approx(rate)


def test_cosine_falls_from_the_base_rate_to_zero():
    recipe = Recipe(steps=110, batch_size=8, lr=0.1, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(recipe, step) for step in range(10, 111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert rates == sorted(rates, reverse=True)


def test_position_biases_of_a_swin_are_not_decayed():
    backbone = build_detector("cascade-rcnn-swin-t-bifpn-tiny").backbone
    _, undecayed = build_optimizer(backbone, Recipe(steps=1, batch_size=1, lr=0.1)).param_groups
    tables = {id(p) for name, p in backbone.named_parameters() if name.endswith("relative_position_bias_table")}
    assert len(tables) == 8
    assert tables < {id(p) for p in undecayed["params"]}


def test_root_mean_square_norms_are_not_decayed():
    module = nn.Sequential(nn.RMSNorm(4), RmsNorm2d(4), nn.Linear(4, 4, bias=False))
    decayed, undecayed = build_optimizer(module, Recipe(steps=1, batch_size=1, lr=0.1)).param_groups
    assert [len(group["params"]) for group in (decayed, undecayed)] == [1, 2]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_norms_are_not_decayed(kind):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 4))
    module[3].weight.requires_grad_(False)
    recipe = Recipe(steps=1, batch_size=1, lr=0.1, optimizer=kind, weight_decay=0.01)
    decayed, undecayed = build_optimizer(module, recipe).param_groups
    assert decayed["weight_decay"] == 0.01
    assert {id(p) for p in decayed["params"]} == {id(p) for p in (*module[0].parameters(), module[3].bias)}
    assert undecayed["weight_decay"] == 0
    assert {id(p) for p in undecayed["params"]} == {id(p) for p in (*module[1].parameters(), *module[2].parameters())}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_first_step_of_a_parameter_is_proportional_to_its_factor(kind):
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3))
    recipe = Recipe(steps=1, batch_size=1, lr=0.1, optimizer=kind, weight_decay=0.1, warmup_steps=0)
    start = copy.deepcopy(module.state_dict())

    def change(factors):
        module.load_state_dict(start)
        optimizer = build_optimizer(module, recipe, factors)
        set_learning_rate([optimizer], learning_rate(recipe, 0))
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return {name: value - start[name] for name, value in module.state_dict().items()}

    ordinary = change({})
    slow = change(dict.fromkeys([*module[0].parameters(), *module[1].parameters()], 0.25))
    for name, value in ordinary.items():
        factor = 1 if name.startswith("2.") else 0.25
        torch.testing.assert_close(slow[name], factor * value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_fused_steps_are_those_of_the_plain_optimizer(kind):
    recipe = Recipe(steps=1, batch_size=1, lr=0.05, optimizer=kind, weight_decay=0.1)
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))
        optimizer = build_optimizer(module, recipe, fused=fused)
        for _ in range(20):
            optimizer.zero_grad()
            module(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()
        weights.append(torch.cat([value.detach().flatten() for value in module.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
    assert not torch.equal(weights[1], torch.zeros_like(weights[1]))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_state_of_a_plain_optimizer_continues_in_a_fused_one(kind):
    recipe = Recipe(steps=1, batch_size=1, lr=0.1, optimizer=kind)
    module = nn.Linear(3, 3)
    plain = build_optimizer(module, recipe)
    module(torch.ones(1, 3)).sum().backward()
    plain.step()
    trainable = TrainableModule(Fabric(accelerator="cpu", devices=1), nn.Linear(3, 3), recipe)
    trainable.load_state(module.state_dict(), plain.state_dict())
    assert all(group["fused"] for group in trainable.optimizer.param_groups)
    trainable.backward({"loss": trainable.module(torch.ones(1, 3)).sum()})
    trainable.optimizer_step()


def test_an_optimizer_with_a_gradient_scaler_is_not_fused(monkeypatch):
    fabric = Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(fabric.strategy, "_precision", MixedPrecision("16-mixed", "cpu"))
    trainable = TrainableModule(fabric, nn.Linear(3, 3), Recipe(steps=1, batch_size=1, lr=0.1), clip_norm=1.0)
    assert not any(group["fused"] for group in trainable.optimizer.param_groups)


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"steps": 90_000}, ("steps=90000", "milestones is 210000", "--set train.milestones=[67500]")),
        ({"steps": 500, "milestones": ()}, ("steps=500", "warmup_steps=1000", "--set train.warmup_steps=50")),
        ({}, None),
        ({"steps": 90_000, "schedule": "cosine"}, None),
    ],
)
def test_a_schedule_for_another_number_of_steps_is_warned_of(change, facts):
    values = {"steps": 270_000, "batch_size": 16, "lr": 0.02, "milestones": (210_000, 250_000)}
    warnings = schedule_warnings(Recipe(**{**values, **change}), "train")
    assert len(warnings) == bool(facts)
    assert all(fact in warnings[0] for fact in facts or ())


def one_weight(clip_norm=None):
    """A weight of 1 that SGD with rate 0.1 trains."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    recipe = Recipe(steps=1, batch_size=1, lr=0.1, momentum=0.0, weight_decay=0.0)
    return TrainableModule(Fabric(accelerator="cpu", devices=1), module, recipe, clip_norm)


@pytest.mark.parametrize(("clip_norm", "weight"), [(None, 0.4), (2.0, 0.8)])
def test_a_step_follows_the_clipped_gradient_of_the_sum(clip_norm, weight):
    trainable = one_weight(clip_norm)
    for _ in range(2):  # the second backward replaces the gradient
        outputs = trainable.module(torch.ones(1, 1))
        trainable.backward({"loss_a": 5 * outputs.sum(), "loss_b": outputs.mean()})
    trainable.optimizer_step()
    assert float(trainable.module.weight.detach()) == pytest.approx(weight)


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    trainable = one_weight()
    trainable.backward({"loss": (trainable.module(torch.ones(1, 1)).sum() - 1).sqrt()})
    with pytest.raises(FloatingPointError, match="gradient"):
        trainable.optimizer_step()
    assert float(trainable.module.weight.detach()) == 1


@pytest.mark.parametrize("is_read_before", [True, False])
def test_a_loss_that_is_not_finite_is_named_before_the_weights_change(monkeypatch, is_read_before):
    trainable = one_weight()
    if not is_read_before:  # as on a GPU and with several ranks
        monkeypatch.setattr(type(trainable._fabric), "world_size", 2)
    output = trainable.module(torch.ones(1, 1)).sum()
    losses = {"loss_a": output, "loss_b": output * float("nan")}
    if not is_read_before:
        trainable.backward(losses)
    with pytest.raises(FloatingPointError, match="loss_b became nan"):
        trainable.backward(losses) if is_read_before else trainable.optimizer_step()
    assert float(trainable.module.weight.detach()) == 1


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "1.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_found_and_named(fabric, name, value):
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    trainable = TrainableModule(fabric, module, Recipe(steps=1, batch_size=1, lr=0.1))
    assert trainable.weight_norm().isfinite()
    assert trainable.diverged_weight() == ""
    module.state_dict()[name].fill_(value)
    assert not trainable.weight_norm().isfinite()
    assert trainable.diverged_weight() == name
