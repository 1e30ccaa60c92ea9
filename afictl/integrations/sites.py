"""One place in a model where an interpolator can stand."""

from typing import NamedTuple

from torch import Tensor, nn


class UpsamplingSite(NamedTuple):
    """A pyramid, and what substitution has to know about it."""

    pyramid: nn.Module
    """Gets the interpolator as its part ``interpolator``."""
    channels: int
    """Width of the maps that are enlarged."""
    steps: int
    """Enlargements in one forward pass."""
    weight: Tensor
    """A parameter of the pyramid: its device and type are the interpolator's too."""
    becomes: type[nn.Module]
    """Class of the pyramid once it works with an interpolator; differs from the present one in ``forward`` alone."""
