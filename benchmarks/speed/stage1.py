"""A step of stage 1 against a plain training loop with the plain forms of both networks, from equal weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from afictl import PatchDiscriminator, build_detector, load_preset
from afictl.data import TrainBatch
from afictl.detectors import Detector
from afictl.presets import InterpolatorRecipe
from afictl.training.adversarial import PerLevel, PyramidInterpolator
from afictl.training.optimization import TrainableModule
from afictl.training.stage1 import stage1_step
from benchmarks.plain_afi import PlainDiscriminator
from benchmarks.speed.interpolator import build_pair
from benchmarks.speed.machine import DTYPES, Machine
from benchmarks.speed.rows import SpeedRow, measure_alternatives, missing_rows

PART = "stage1"
_SIDE, _IMAGES = 320, {"cpu": 1, "cuda": 8}
_SHORT_SIDE, _SHORT_IMAGES = 64, 2
_PRESET = "faster-rcnn-r50-fpn"
_SETTINGS = ("backbone.pretrained=false", "stage1.lr=1e-6")
"""The learning rate leaves random weights stable."""
_SHORT_SETTINGS = (*_SETTINGS, "backbone.name=test_resnet", "neck.channels=16", "detector.fc_width=16")
_SECONDS = 8.0
_FABRIC_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}

Losses = Mapping[str, Tensor]


class PlainLoop:
    """Stage 1 as an adversarial training is usually written: one level at a time, gradients of all weights.

    Args:
        guide: frozen detector in eval mode.
        interpolator: (N, C, H, W) -> (N, C, 2H, 2W).
        discriminator: (N, C, H, W) -> logits (N, 1, H, W).
        recipe: the settings of stage 1.
    """

    def __init__(
        self, guide: Detector, interpolator: nn.Module, discriminator: nn.Module, recipe: InterpolatorRecipe
    ) -> None:
        self.guide, self.interpolator, self.discriminator, self.recipe = guide, interpolator, discriminator, recipe
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.SGD(module.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
            for module in (interpolator, discriminator)
        )

    def step(self, full: list[Tensor], half: list[Tensor], machine: Machine, precision: str) -> Losses:
        """One update of the discriminator and one of the interpolator; the losses of both."""
        with machine.autocast(precision):
            with torch.no_grad():
                real, coarse = self.guide.pyramid(full), self.guide.pyramid(half)
            fake = {level: self.interpolator(maps) for level, maps in coarse.items()}
            pairs = [_cropped(fake[level], real[level]) for level in fake]
            terms = [self._loss(expected, 1.0) + self._loss(value.detach(), 0.0) for value, expected in pairs]
        loss_d = torch.stack(terms).sum()
        self._update(self.discriminator_optimizer, loss_d)
        with machine.autocast(precision):
            l1 = torch.stack([F.l1_loss(value.float(), expected.float()) for value, expected in pairs]).sum()
            adversarial = torch.stack([self._loss(value, 1.0) for value, _ in pairs]).sum()
        adversarial = self.recipe.adversarial_weight * adversarial
        self._update(self.generator_optimizer, l1 + adversarial)
        losses = {"loss_l1": l1, "loss_adversarial": adversarial, "loss_discriminator": loss_d}
        return {name: loss.detach() for name, loss in losses.items()}

    def _loss(self, maps: Tensor, target: float) -> Tensor:
        logits = self.discriminator(maps).float()
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _cropped(fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    h, w = min(fake.shape[2], real.shape[2]), min(fake.shape[3], real.shape[3])
    return fake[..., :h, :w], real[..., :h, :w]


def measure_stage1(machine: Machine) -> Iterator[list[SpeedRow]]:
    """Rows of each precision."""
    side = _SHORT_SIDE if machine.short else _SIDE
    images = _SHORT_IMAGES if machine.short else _IMAGES[machine.device.type]
    workload = f"step, {images} image{'s' * (images > 1)} of {side}x{side}"
    for precision in DTYPES:
        if precision in machine.missing:
            yield missing_rows(PART, workload, precision, machine.missing[precision])
            continue
        runs = _runs(machine, precision, images, side)
        yield measure_alternatives(PART, workload, precision, runs, machine, _SECONDS, _describe)


def _runs(machine: Machine, precision: str, images: int, side: int) -> dict[str, Callable[[], Losses]]:
    """Steps of both loops on the same images and from the same weights."""
    preset = load_preset(_PRESET, _SHORT_SETTINGS if machine.short else _SETTINGS)
    torch.manual_seed(0)
    guide = build_detector(preset, interpolator="nearest").to(machine.device).eval().requires_grad_(False)
    channels, recipe = preset.neck.channels, preset.stage1
    plain_interpolator, interpolator = build_pair(channels, machine.device)
    discriminator = PatchDiscriminator(channels).to(machine.device)
    plain_discriminator = PlainDiscriminator(channels).to(machine.device)
    plain_discriminator.load_state_dict(discriminator.state_dict())
    name: Any = _FABRIC_PRECISIONS[precision]  # Fabric's type of it is private
    fabric = Fabric(accelerator=machine.device.type, devices=1, precision=name)
    generator = TrainableModule(fabric, PyramidInterpolator(interpolator), recipe, recipe.clip_norm)
    trainable_discriminator = TrainableModule(fabric, PerLevel(discriminator), recipe)
    full = list(torch.rand(images, 3, side, side, device=machine.device))
    half = list(F.avg_pool2d(torch.stack(full), 2))
    batch = TrainBatch(full, [], half, [], [])
    loop = PlainLoop(guide, plain_interpolator, plain_discriminator, recipe)
    return {
        "plain": partial(loop.step, full, half, machine, precision),
        "afictl": partial(stage1_step, fabric, guide, recipe, generator, trainable_discriminator, batch),
    }


def _describe(losses: Mapping[str, Losses]) -> dict[str, str]:
    """The largest relative difference of a loss of the warm-up."""
    plain = losses["plain"]
    difference = max(abs(float(value.detach() / plain[name]) - 1) for name, value in losses["afictl"].items())
    return {"afictl": f"losses differ by at most {100 * difference:.2g} %"}
