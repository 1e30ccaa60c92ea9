"""Principal components of feature maps, fitted on several maps so that their colours are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_COUNT = 3
_QUANTILES = (0.01, 0.99)  # the range of a component: single outliers would flatten the rest


@dataclass(frozen=True)
class PrincipalComponents:
    """The first three principal components of feature maps, and the range of each for its colour scale."""

    mean: Tensor
    """(C,) float64"""
    axes: Tensor
    """(3, C) float64, orthonormal, largest variance first, each with its largest entry positive; zero where C < 3."""
    low: Tensor
    """(3,) float64"""
    high: Tensor
    """(3,) float64"""

    @classmethod
    def fit(cls, maps: Sequence[Tensor]) -> PrincipalComponents:
        """Fit on all positions of ``maps``, (C, h, w) each."""
        rows = [value.flatten(1).T.double() for value in maps]
        count = sum(len(vectors) for vectors in rows)
        mean = torch.stack([vectors.sum(0) for vectors in rows]).sum(0) / count
        covariance = torch.stack([(vectors - mean).T @ (vectors - mean) for vectors in rows]).sum(0) / count
        eigenvectors = torch.linalg.eigh(covariance).eigenvectors.flip(1).T[:_COUNT]
        largest = eigenvectors.gather(1, eigenvectors.abs().argmax(dim=1, keepdim=True))
        axes = torch.zeros(_COUNT, len(mean), dtype=torch.float64)
        axes[: len(eigenvectors)] = eigenvectors * largest.sign()
        values = np.concatenate([((vectors - mean) @ axes.T).numpy() for vectors in rows])
        low, high = torch.from_numpy(np.quantile(values, _QUANTILES, axis=0))
        return cls(mean, axes, low, high)

    def normalized(self, value: Tensor) -> npt.NDArray[np.float64]:
        """Project a map (C, h, w) to (h, w, 3), each component scaled to 0..1 by its range; outliers exceed 0..1."""
        _, h, w = value.shape
        projected = (value.flatten(1).T.double() - self.mean) @ self.axes.T
        span = (self.high - self.low).where(self.high > self.low, 1.0)
        return ((projected - self.low) / span).view(h, w, _COUNT).numpy()
