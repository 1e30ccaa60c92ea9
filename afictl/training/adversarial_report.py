"""Effect of the discriminator in stages 1 and 2: its accuracy on held-out pairs, and the size of its gradient.

An accuracy near 1/2 means that the discriminator cannot tell enlarged maps from the guide's, and a small gradient that
the interpolator is trained by the L1 term alone; in either case the adversarial term has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from afictl.discriminator import PatchDiscriminator
from afictl.training.adversarial import Pair

_MAX_IMAGES = 50  # each costs two passes of the discriminator, which is larger than all other networks together


class _Measurement(NamedTuple):
    """Values of one level for one image."""

    correct: float
    """Positions that are classified correctly."""
    positions: float
    """Positions of the enlarged and of the guide's map."""
    gradient: float
    """Norm of the adversarial gradient divided by that of the L1 term."""


class AdversarialReport:
    """Accuracy of a discriminator and size of its gradient, over pairs of one image each.

    Batch norm takes its statistics from the maps of the image, as it does in training from those of the batch: the
    running ones mix maps of all levels, enlarged and not.

    Args:
        discriminator: the discriminator, which is not changed.
        weight: of the adversarial term.
    """

    def __init__(self, discriminator: PatchDiscriminator, weight: float) -> None:
        # A copy: its batch norms are of one process, as an evaluation is, and their running statistics are its own.
        self._discriminator = PatchDiscriminator(discriminator.channels)
        self._discriminator.load_state_dict(discriminator.state_dict())
        self._discriminator.requires_grad_(False).to(discriminator.logits.weight.device)
        self._weight = weight
        self._measurements: dict[str, list[_Measurement]] = {}

    def add(self, pairs: Mapping[str, Pair]) -> None:
        """Measure the pairs of an image by level, but those of one position, which batch norm cannot normalise."""
        for level, pair in pairs.items():
            measurements = self._measurements.setdefault(level, [])
            if pair.mask.numel() > 1 and len(measurements) < _MAX_IMAGES:
                measurements.append(self._measure(pair))

    @property
    def metrics(self) -> dict[str, float]:
        """``discriminator_accuracy`` in 0..1 and ``adversarial_gradient``, means over the levels, and both ``/LEVEL``.

        The latter is the norm of the gradient of the adversarial term with respect to the enlarged maps, divided by
        that of the L1 term. Empty without a level that can be measured.
        """
        levels = {level: values for level, values in self._measurements.items() if values}
        by_level = {
            "discriminator_accuracy": {
                level: sum(value.correct for value in values) / sum(value.positions for value in values)
                for level, values in levels.items()
            },
            "adversarial_gradient": {
                level: sum(value.gradient for value in values) / len(values) for level, values in levels.items()
            },
        }
        means = {name: sum(values.values()) / len(values) for name, values in by_level.items() if values}
        return means | {f"{name}/{level}": value for name in means for level, value in by_level[name].items()}

    def describe(self) -> str:
        """A line of text."""
        metrics = self.metrics
        if not metrics:
            return "discriminator: not measured, for every held-out map has a single position"

        def percent(name: str) -> str:
            levels = (
                f"{key.rpartition('/')[2]} {100 * metrics[key]:.1f}" for key in metrics if key.startswith(f"{name}/")
            )
            return f"{100 * metrics[name]:.1f} % ({', '.join(levels)})"

        return (
            f"discriminator: classifies {percent('discriminator_accuracy')} of the held-out positions correctly, by"
            f" chance 50 %; the gradient of the adversarial term is {percent('adversarial_gradient')} of that of L1"
        )

    def _measure(self, pair: Pair) -> _Measurement:
        count = pair.mask.sum()
        with torch.enable_grad():
            fake = pair.fake.detach().requires_grad_(True)
            real_logits = self._discriminator(pair.real * pair.mask).float()
            fake_logits = self._discriminator(fake * pair.mask).float()
            loss = self._weight * (F.softplus(-fake_logits) * pair.mask).sum() / count  # cross-entropy to "real"
            (gradient,) = torch.autograd.grad(loss, fake)
        correct = ((real_logits > 0) * pair.mask).sum() + ((fake_logits < 0) * pair.mask).sum()
        ratio = gradient.float().norm() / _l1_gradient_norm(pair, count)
        return _Measurement(float(correct), 2 * float(count), float(ratio))


def _l1_gradient_norm(pair: Pair, count: Tensor) -> Tensor:
    """Norm of the gradient of the mean absolute difference, whose n values are +-1/n."""
    return (count * pair.fake.shape[1]).rsqrt()
