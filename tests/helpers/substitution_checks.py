"""Checks of a model with interpolators that hold for every library, for tables of models."""

import copy
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from afictl import UserError, build_interpolator, substitute_interpolator

KIND = "dysample"


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    probe: tuple
    """Arguments of the model."""
    steps: list[tuple[str, int]]
    """Path and width of each step that is reached."""
    unreached: tuple[str, ...] = ()
    """Paths of the others, once for each reason."""
    pickles: bool = True
    """Whether the library's model can be pickled."""


class AlignedBilinear(nn.Module):
    def forward(self, coarse, fine=None):
        return F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=True)


def build(case, seed=0):
    torch.manual_seed(seed)
    model = case.build().eval()
    for parameter in model.parameters():  # zeros as initial weights would hide differences
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def tensors(output):
    """All floating-point tensors in the output of a model."""
    if isinstance(output, torch.Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for value in output for tensor in tensors(value)] if isinstance(output, (list, tuple)) else []


@torch.no_grad()
def run(model, case):
    return tensors(model(*copy.deepcopy(case.probe)))


def assert_equal(actual, expected):
    assert len(actual) == len(expected) > 0
    assert all(a.numel() > 0 and torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def substitute(model, case, interpolator=KIND, **options):
    return substitute_interpolator(model, interpolator, probe=case.probe, **options)


def check_steps(case):
    model = build(case)
    result = substitute(model, case)
    assert [(step.path, step.channels) for step in result.replaced] == case.steps
    assert sorted(step.path for step in result.unreached) == sorted(case.unreached)
    assert {(step.scale, step.runs) for step in result.replaced} == {(2, 1)}
    assert result == len(case.steps)
    assert all(step.runs > 0 and step.reason for step in result.unreached)
    assert len(result.summary().splitlines()) == len(case.steps) + len(case.unreached)


def check_own_interpolation(case):
    model = build(case)
    before, names = run(model, case), list(model.state_dict())
    calls = []
    trial = substitute(model, case)
    trial.undo()
    for mode in {step.mode for step in trial.replaced}:
        substitute(model, case, counting(mode, calls), where=lambda step, mode=mode: step.mode == mode)
    assert_equal(run(model, case), before)
    assert len(calls) == len(case.steps)
    assert list(model.state_dict()) == names


def counting(mode, calls):
    """A factory of interpolators that compute as PyTorch in this mode, and list their calls."""

    def make(channels):
        module = AlignedBilinear() if mode == "bilinear, corners aligned" else build_interpolator(mode, channels)
        module.register_forward_hook(lambda *_: calls.append(mode))
        return module

    return make


def check_learned_weights(case):
    model, original = build(case), build(case)
    substitute(model, case)
    new = {name: value for name, value in model.named_parameters() if ".interpolators." in f".{name}"}
    assert len(new) == 2 * len(case.steps)  # weight and bias of DySample
    for value in new.values():
        nn.init.normal_(value, std=0.2)
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    twins = [copy.deepcopy(model)]
    if case.pickles:
        twins.append(pickle.loads(pickle.dumps(model)))  # before a run, in which transformers adds local functions
    learned = run(model, case)
    assert any(not torch.equal(a, b) for a, b in zip(learned, run(original, case), strict=True))

    other = build(case, seed=1)
    substitute(other, case)
    other.load_state_dict(model.state_dict())
    assert_equal(run(other, case), learned)
    for twin in twins:
        assert_equal(run(twin, case), learned)
        assert not {id(value) for value in twin.parameters()} & {id(value) for value in model.parameters()}

    model.train()
    loss = sum(value.square().mean() for value in tensors(model(*copy.deepcopy(case.probe))) if value.requires_grad)
    loss.backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in new.values())
    torch.optim.SGD(new.values(), lr=0.1).step()
    assert any(not torch.equal(a, b) for a, b in zip(run(model.eval(), case), learned, strict=True))


def check_undo(case):
    model = build(case)
    before = run(model, case)
    classes, names = [type(module) for module in model.modules()], list(model.state_dict())
    first = substitute(model, case)
    second = substitute(model, case, "nearest")
    with pytest.raises(UserError, match="later"):
        first.undo()
    second.undo()
    first.undo()
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == names
    assert_equal(run(model, case), before)


def check_guided_kinds_are_refused(case):
    model = build(case)
    before = run(model, case)
    for kind in ("sapa", "fade", "freqfusion"):
        with pytest.raises(UserError, match=rf"'{kind}' needs the fine map.*coarse"):
            substitute(model, case, kind)
    assert_equal(run(model, case), before)
    assert not any("interpolators" in name for name, _ in model.named_modules())


CHECKS = {
    "steps": check_steps,
    "own interpolation": check_own_interpolation,
    "learned weights": check_learned_weights,
    "undo": check_undo,
    "guided kinds": check_guided_kinds_are_refused,
}
