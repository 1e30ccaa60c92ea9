"""Principal components of feature maps that are to be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_COUNT = 3
_RANGE = (0.01, 0.99)  # quantiles of a component that its scale spans: single outliers would flatten the rest


@dataclass(frozen=True)
class Components:
    """The first three principal components of some maps, and the range of each that their colours span."""

    mean: Tensor
    """(C,) float64"""
    axes: Tensor
    """(3, C) float64, orthonormal, largest variance first, each with its largest entry positive; zero where C < 3."""
    low: Tensor
    """(3,)"""
    high: Tensor
    """(3,)"""

    @classmethod
    def fitted(cls, maps: Sequence[Tensor]) -> Components:
        """Those of all positions of ``maps``, (C, h, w) each, together."""
        rows = [value.flatten(1).T.double() for value in maps]
        count = sum(len(each) for each in rows)
        mean = torch.stack([each.sum(0) for each in rows]).sum(0) / count
        covariance = torch.stack([(each - mean).T @ (each - mean) for each in rows]).sum(0) / count
        vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1).T[:_COUNT]
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        axes = torch.zeros(_COUNT, len(mean), dtype=torch.float64)
        axes[: len(vectors)] = vectors * largest.sign()
        values = np.concatenate([((each - mean) @ axes.T).numpy() for each in rows])
        low, high = torch.from_numpy(np.quantile(values, _RANGE, axis=0))
        return cls(mean, axes, low, high)

    def shares(self, value: Tensor) -> npt.NDArray[np.float64]:
        """A map (C, h, w) as (h, w, 3): where each component lies in its range, 0..1, less or more for outliers."""
        _, h, w = value.shape
        projected = (value.flatten(1).T.double() - self.mean) @ self.axes.T
        span = (self.high - self.low).where(self.high > self.low, 1.0)
        return ((projected - self.low) / span).view(h, w, _COUNT).numpy()
