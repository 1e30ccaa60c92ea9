"""Feature pyramids in which an interpolator can be put, with the fine map at hand."""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from afictl.necks import Neck


class UpsamplingSite(NamedTuple):
    """A feature pyramid, and how an interpolator is put into it."""

    pyramid: nn.Module
    """Gets the interpolator as its part ``interpolator``."""
    channels: int
    """Width of the maps that are upsampled."""
    num_upsamplers: int
    """Upsampling steps in one forward pass."""
    weight: Tensor
    """A parameter of the pyramid, with the device and type that the interpolator gets."""
    new_class: type[nn.Module]
    """Class of the pyramid with an interpolator; differs from the present one in ``forward`` alone."""

    @property
    def mode(self) -> str:
        """Kind of the present interpolator; nearest is that of pyramids of other libraries."""
        present = getattr(self.pyramid, "interpolator", None)
        return "nearest" if present is None else str(getattr(present, "kind", type(present).__name__))


def neck_site(neck: nn.Module) -> UpsamplingSite:
    """The site of one of afictl's necks."""
    typed = cast(Neck, neck)
    return UpsamplingSite(neck, typed.channels, typed.num_upsamplers, next(neck.parameters()), type(neck))
