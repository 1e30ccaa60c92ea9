"""Optimizers, their steps, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, AdamW, Optimizer

from afictl.errors import one_line
from afictl.presets import Recipe

_WARMUP_FACTOR = 1e-3  # of detectron2


class TrainableModule:
    """A module with its optimizer, both set up by Fabric.

    Every stage trains by ``backward`` and ``optimizer_step`` alone, so gradient accumulation belongs here.

    Args:
        fabric: the launched Fabric.
        module: its parameters without ``requires_grad`` are not trained.
        recipe: settings of the optimizer.
        clip_norm: largest gradient norm; None does not clip.
    """

    def __init__(self, fabric: Fabric, module: nn.Module, recipe: Recipe, clip_norm: float | None = None) -> None:
        self.module, self.optimizer = fabric.setup(module, build_optimizer(module, recipe))
        self.clip_norm = clip_norm
        self._fabric = fabric

    def backward(self, losses: Iterable[Tensor]) -> None:
        """Replace the gradients by those of the sum of ``losses``, scalars."""
        self.optimizer.zero_grad()
        self._fabric.backward(torch.stack(list(losses)).sum())

    def load_state(self, module: object, optimizer: object) -> None:
        """Load saved states of the module and of its optimizer, whose settings stay those of the recipe.

        Args:
            module: its ``state_dict``.
            optimizer: its ``state_dict``.

        Raises:
            ValueError: not states of this module and optimizer.
        """
        settings = [{key: value for key, value in group.items() if key != "params"} for group in self._groups]
        try:
            self.module.load_state_dict(module)
            self.optimizer.load_state_dict(optimizer)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(one_line(error)) from None
        for group, values in zip(self._groups, settings, strict=True):
            group.update(values)
        _check_optimizer_state(self.optimizer)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups

    def optimizer_step(self) -> None:
        """Clip the gradients and update the parameters.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        # The gradient scaler of float16 skips updates whose gradients are not finite.
        is_strict = self._fabric.strategy.precision.precision != "16-mixed"
        max_norm = self.clip_norm or math.inf
        try:
            self._fabric.clip_gradients(self.module, self.optimizer, max_norm=max_norm, error_if_nonfinite=is_strict)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            raise FloatingPointError("the gradient is not finite") from None
        self.optimizer.step()


def _check_optimizer_state(optimizer: Optimizer) -> None:
    """Check what torch does not: that each parameter has the moments of the optimizer, of its shape.

    Raises:
        ValueError: it has not.
    """
    required = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, AdamW) else set()
    for parameter, values in optimizer.state.items():
        if not isinstance(parameter, Tensor) or not isinstance(values, dict) or (values and required - values.keys()):
            raise ValueError("the state of the optimizer is not that of its parameters")
        for name, value in values.items():
            is_valid = value is None if not isinstance(value, Tensor) else value.shape in ((), parameter.shape)
            if not (is_valid or (name == "step" and isinstance(value, int | float))):
                raise ValueError(f"the optimizer's {name!s:.40} has not the shape of its parameter")


def build_optimizer(module: nn.Module, recipe: Recipe) -> Optimizer:
    """Optimizer of the trainable parameters, without weight decay for norms and Swin's position biases."""
    exempt = {id(parameter) for parameter in _exempt_from_decay(module)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in exempt], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if id(p) in exempt], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.lr)
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def _exempt_from_decay(module: nn.Module) -> Iterable[nn.Parameter]:
    for child in module.modules():
        is_norm = isinstance(child, (_NormBase, nn.GroupNorm, nn.LayerNorm))
        for name, parameter in child.named_parameters(recurse=False):
            if is_norm or name == "relative_position_bias_table":
                yield parameter


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step: linear warm-up, then drops by ten at the milestones or a half cosine to 0."""
    warmup = 1.0
    if recipe.warmup_steps:
        warmup = min(1.0, _WARMUP_FACTOR + (1 - _WARMUP_FACTOR) * step / recipe.warmup_steps)
    if recipe.schedule == "cosine":
        progress = max(0.0, (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps))
        return recipe.lr * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return float(recipe.lr * warmup * 0.1 ** sum(step >= milestone for milestone in recipe.milestones))


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def schedule_warnings(recipe: Recipe) -> list[str]:
    """Warnings about a schedule that does not fit the number of steps."""
    warnings = []
    if recipe.warmup_steps >= recipe.steps:
        warnings.append(f"the rate still rises when training ends: warmup_steps={recipe.warmup_steps}")
    if recipe.schedule == "multistep" and recipe.milestones and min(recipe.milestones) >= recipe.steps:
        warnings.append(f"the rate never drops: the first of milestones is {min(recipe.milestones)}")
    return [f"steps={recipe.steps}, but {warning}" for warning in warnings]
