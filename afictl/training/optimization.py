"""Optimizers, their steps, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from timm.layers import RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm
from torch.optim import SGD, AdamW, Optimizer

from afictl.distributed import sum_over_ranks, world_size
from afictl.errors import one_line
from afictl.presets import Preset, Recipe, list_presets, load_preset

_WARMUP_FACTOR = 1e-3  # of detectron2
_RATE_FACTOR = "lr_factor"
"""Key of a parameter group: its learning rate divided by that of the recipe."""


class TrainableModule:
    """A module with its optimizer, both set up by Fabric.

    Every stage trains by ``backward`` and ``optimizer_step`` alone, so gradient accumulation belongs here. Values that
    are not finite are noticed where they are first read anyway: losses before the backward pass of a single process on
    a CPU, whose kernels may crash on NaN; gradients, with the losses, before the update; weights after it, by the
    training loop.

    Args:
        fabric: the launched Fabric.
        module: its parameters without ``requires_grad`` are not trained.
        recipe: settings of the optimizer.
        clip_norm: largest gradient norm; None does not clip.
        rate_factors: as in ``build_optimizer``.
    """

    def __init__(
        self,
        fabric: Fabric,
        module: nn.Module,
        recipe: Recipe,
        clip_norm: float | None = None,
        rate_factors: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        optimizer = build_optimizer(module, recipe, rate_factors or {}, fused=_can_fuse(fabric))
        self.module, self.optimizer = fabric.setup(module, optimizer)
        self.clip_norm = clip_norm
        self._fabric = fabric
        self._weights = dict(_changed_tensors(module))
        self._losses: Mapping[str, Tensor] = {}

    def backward(self, losses: Mapping[str, Tensor], accumulates: bool = False) -> dict[str, Tensor]:
        """Replace the gradients by those of the sum of ``losses``, scalars by name, or add these to them.

        Returns:
            The losses without gradient, with ``accumulates`` their sum with those of the calls before.

        Raises:
            FloatingPointError: a loss is not finite, where it is read at this point.
        """
        present = {name: value.detach() for name, value in losses.items()}
        if accumulates:
            present = {name: self._losses[name] + value for name, value in present.items()}
        self._losses = present
        if self._fabric.world_size == 1 and self._fabric.device.type == "cpu":
            mean_losses(losses)
        if not accumulates:
            self.optimizer.zero_grad()
        self._fabric.backward(torch.stack(list(losses.values())).sum())
        return present

    def load_state(self, module: object, optimizer: object) -> None:
        """Load saved states of the module and of its optimizer, whose settings stay those of the recipe.

        Args:
            module: its ``state_dict``.
            optimizer: its ``state_dict``.

        Raises:
            ValueError: not states of this module and optimizer.
        """
        settings = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        try:
            self.module.load_state_dict(module)
            saved = cast(Mapping[str, Any], optimizer)
            # Before it is loaded: a fused optimizer has its state on the device.
            groups = [{**group, **values} for group, values in zip(saved["param_groups"], settings, strict=True)]
            self.optimizer.load_state_dict({**saved, "param_groups": groups})
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(one_line(error)) from None
        _check_optimizer_state(self.optimizer)

    def optimizer_step(self) -> None:
        """Clip the gradients and update the parameters.

        Raises:
            FloatingPointError: a gradient is not finite; names the loss that is not, if there is one. Raised on all
                ranks, which have the same gradients.
        """
        # The gradient scaler of float16 skips updates whose gradients are not finite.
        is_strict = self._fabric.strategy.precision.precision != "16-mixed"
        max_norm = self.clip_norm or math.inf
        try:
            self._fabric.clip_gradients(self.module, self.optimizer, max_norm=max_norm, error_if_nonfinite=is_strict)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            mean_losses(self._losses)
            gradients = {name: weight.grad for name, weight in self._weights.items() if weight.grad is not None}
            name = _name_diverged(gradients)
            raise FloatingPointError(f"the gradient{f' of {name}' * bool(name)} is not finite") from None
        self._losses = {}
        self.optimizer.step()

    def weight_norm(self) -> Tensor:
        """L2 norm of all weights that training changes, a scalar; not finite if a weight is not, or is above 1e19."""
        return get_total_norm(self._weights.values())

    def diverged_weight(self) -> str:
        """Name of the first tensor of weights whose norm is not finite; empty without one."""
        return _name_diverged(self._weights)


def _name_diverged(tensors: Mapping[str, Tensor]) -> str:
    return next((name for name, value in tensors.items() if not value.norm().isfinite()), "")


def mean_losses(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Means of the losses, scalars, over all ranks, with one transfer from the device.

    Raises:
        FloatingPointError: one is not finite; names it, on all ranks.
    """
    stacked = torch.stack([value.detach().float().reshape(()) for value in losses.values()])
    values = dict(zip(losses, (sum_over_ranks(stacked) / world_size()).tolist(), strict=True))
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became {value}")
    return values


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


def _can_fuse(fabric: Fabric) -> bool:
    """Whether the optimizer may update all parameters by one kernel, which reads and writes each number once.

    Gradients cannot be clipped for such an optimizer with the gradient scaler of float16.
    """
    return fabric.device.type in ("cpu", "cuda") and fabric.strategy.precision.precision != "16-mixed"


def build_optimizer(
    module: nn.Module,
    recipe: Recipe,
    rate_factors: Mapping[nn.Parameter, float] = MappingProxyType({}),
    *,
    fused: bool = False,
) -> Optimizer:
    """Optimizer of the trainable parameters, without weight decay for norms and Swin's position biases.

    Args:
        module: its parameters without ``requires_grad`` are not trained.
        recipe: settings of the optimizer.
        rate_factors: learning rate of a parameter divided by that of the recipe, where it is not 1; above 0.
        fused: torch's implementation in one kernel, the same up to rounding; for float32 on CPUs and CUDA.
    """
    exempt = {id(parameter) for parameter in _exempt_from_decay(module)}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [p for p in trainable if (id(p) in exempt) == is_exempt and rate_factors.get(p, 1.0) == factor],
            "weight_decay": 0.0 if is_exempt else recipe.weight_decay,
            "lr": recipe.base_lr * factor,
            _RATE_FACTOR: factor,
        }
        for factor in dict.fromkeys([1.0, *rate_factors.values()])
        for is_exempt in (False, True)
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.base_lr, fused=fused)
    return SGD(groups, lr=recipe.base_lr, momentum=recipe.momentum, fused=fused)


def _changed_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and values of what training changes: trainable parameters and the statistics of batch norms."""
    yield from ((name, value) for name, value in module.named_parameters() if value.requires_grad)
    for prefix, child in module.named_modules():
        if isinstance(child, _NormBase):
            for name, value in child.named_buffers(prefix, recurse=False):
                if value.is_floating_point():
                    yield name, value


_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RmsNorm, RmsNorm2d, SimpleNorm, SimpleNorm2d)


def _exempt_from_decay(module: nn.Module) -> Iterable[nn.Parameter]:
    for child in module.modules():
        is_norm = isinstance(child, _NORMS)
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
        return recipe.base_lr * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return float(recipe.base_lr * warmup * 0.1 ** sum(step >= milestone for milestone in recipe.milestones))


def set_learning_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Set the learning rate of every parameter group of optimizers of ``build_optimizer``, times its factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group[_RATE_FACTOR]


def batch_notes(preset: Preset) -> list[str]:
    """Log lines on the learning rate of fine-tuning where the total batch is not that which it was chosen for."""
    recipe = preset.train
    if recipe.lr_batch_size is not None:
        factor = f"{recipe.batch_size}/{recipe.lr_batch_size}"
        return [f"learning rate {recipe.base_lr:g} = {recipe.lr:g} x {factor}, in proportion to the total batch"]
    shipped = load_preset(preset.name).train if preset.name in list_presets() else recipe
    if recipe.batch_size == shipped.batch_size or recipe.lr != shipped.lr:
        return []
    proportional = recipe.lr * recipe.batch_size / shipped.batch_size
    return [
        f"note: the total batch is {recipe.batch_size}, but train.lr={recipe.lr:g} of {preset.name} is for"
        f" {shipped.batch_size}; --scale-lr would set {proportional:g}"
    ]


def schedule_warnings(recipe: Recipe, section: str) -> list[str]:
    """Warnings about a schedule that does not fit the number of steps of a ``section`` of the preset, with remedies."""
    warnings = []
    if recipe.warmup_steps >= recipe.steps:
        reason = f"the rate still rises when training ends: warmup_steps={recipe.warmup_steps}"
        warnings.append(f"{reason}; set fewer, such as --set {section}.warmup_steps={recipe.steps // 10}")
    if recipe.schedule == "multistep" and recipe.milestones and min(recipe.milestones) >= recipe.steps:
        reason = f"the rate never drops: the first of milestones is {min(recipe.milestones)}"
        warnings.append(f"{reason}; set others, such as --set {section}.milestones=[{recipe.steps * 3 // 4}]")
    return [f"{section} has steps={recipe.steps}, but {warning}" for warning in warnings]
