"""torchvision's feature pyramid with any interpolator inside.

Source of the class that is extended: torchvision.ops.FeaturePyramidNetwork, the pyramid of torchvision's Faster,
Mask and Keypoint R-CNN, RetinaNet and FCOS.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork

from afictl.errors import UserError
from afictl.integrations.sites import UpsamplingSite
from afictl.interpolators import Interpolator
from afictl.necks.neck import upsample_to


class InterpolatedFPN(FeaturePyramidNetwork):
    """A ``FeaturePyramidNetwork`` whose top-down path enlarges with its part ``interpolator``."""

    interpolator: Interpolator

    def forward(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps (N, c_i, H_i, W_i), finest first, -> maps (N, C, H_i, W_i), then those of ``extra_blocks``.

        Raises:
            UserError: a map is not half as high and wide, rounded up, as the next finer one.
        """
        names, maps = list(x), list(x.values())
        running = self.inner_blocks[-1](maps[-1])
        outputs = [self.layer_blocks[-1](running)]
        for level in reversed(range(len(maps) - 1)):
            lateral = self.inner_blocks[level](maps[level])
            if not _is_half(running.shape, lateral.shape):
                raise UserError(_not_twofold(running.shape, lateral.shape))
            running = lateral + upsample_to(self.interpolator, running, lateral)
            outputs.insert(0, self.layer_blocks[level](running))
        if self.extra_blocks is not None:
            outputs, names = self.extra_blocks(outputs, maps, names)
        return OrderedDict(zip(names, outputs, strict=True))


def torchvision_places(model: nn.Module) -> Iterator[UpsamplingSite]:
    """Every feature pyramid of torchvision in ``model``.

    Raises:
        UserError: a pyramid of a derived class, which may work differently, or whose steps are not twofold.
    """
    for module in model.modules():
        if isinstance(module, BackboneWithFPN):
            _check_strides(module)
        if isinstance(module, FeaturePyramidNetwork):
            if type(module) not in (FeaturePyramidNetwork, InterpolatedFPN):
                raise UserError(
                    f"{type(module).__name__} has a way of its own to be a FeaturePyramidNetwork; left alone"
                )
            weight = module.inner_blocks[0][0].weight
            yield UpsamplingSite(module, len(weight), len(module.inner_blocks) - 1, weight, InterpolatedFPN)


def _check_strides(backbone: BackboneWithFPN) -> None:
    """Find out the sizes of the maps without computing them: MobileNet's pyramid has two maps of one size."""
    body = backbone.body
    shapes_only = {name: held.to("meta") for name, held in (*body.named_parameters(), *body.named_buffers())}
    image = torch.empty(1, 3, 256, 256, dtype=next(body.parameters()).dtype, device="meta")
    # A body that does not run like this (other input channels, operations of its own) is checked in every forward.
    with torch.no_grad(), contextlib.suppress(RuntimeError):
        for fine, coarse in pairwise(functional_call(body, shapes_only, (image,)).values()):
            if not _is_half(coarse.shape, fine.shape):
                raise UserError(_not_twofold(coarse.shape, fine.shape))


def _is_half(coarse: torch.Size, fine: torch.Size) -> bool:
    return all(small == (large + 1) // 2 for small, large in zip(coarse[-2:], fine[-2:], strict=True))


def _not_twofold(coarse: torch.Size, fine: torch.Size) -> str:
    (h, w), (height, width) = coarse[-2:], fine[-2:]
    return f"an interpolator enlarges twofold, but a step of this pyramid goes from {h}x{w} to {height}x{width}"
