"""torchvision's feature pyramid with an interpolator.

Source of the base class: torchvision.ops.FeaturePyramidNetwork, the pyramid of torchvision's Faster,
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


class InterpolatedPyramid(FeaturePyramidNetwork):
    """A ``FeaturePyramidNetwork`` whose top-down path upsamples with its part ``interpolator``."""

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
                raise _wrong_step(running.shape, lateral.shape)
            running = lateral + upsample_to(self.interpolator, running, lateral, level)
            outputs.insert(0, self.layer_blocks[level](running))
        if self.extra_blocks is not None:
            outputs, names = self.extra_blocks(outputs, maps, names)
        return OrderedDict(zip(names, outputs, strict=True))


def torchvision_sites(model: nn.Module) -> Iterator[UpsamplingSite]:
    """Every feature pyramid of torchvision in ``model``.

    Raises:
        UserError: a pyramid of a derived class, which may compute otherwise, or with a step that is not twofold.
    """
    for module in model.modules():
        if isinstance(module, BackboneWithFPN):
            _check_strides(module)
        if isinstance(module, FeaturePyramidNetwork):
            if type(module) not in (FeaturePyramidNetwork, InterpolatedPyramid):
                raise UserError(
                    f"{type(module).__name__} is derived from FeaturePyramidNetwork and may compute otherwise"
                )
            weight = module.inner_blocks[0][0].weight
            yield UpsamplingSite(module, len(weight), len(module.inner_blocks) - 1, weight, InterpolatedPyramid)


def _check_strides(backbone: BackboneWithFPN) -> None:
    """Check the sizes of the maps on the meta device: MobileNet's pyramid has two maps of one size."""
    body = backbone.body
    tensors = {name: value.to("meta") for name, value in (*body.named_parameters(), *body.named_buffers())}
    image = torch.empty(1, 3, 256, 256, dtype=next(body.parameters()).dtype, device="meta")
    # A body that fails here (other input channels, custom operations) is checked in every forward.
    with torch.no_grad(), contextlib.suppress(RuntimeError):
        for fine, coarse in pairwise(functional_call(body, tensors, (image,)).values()):
            if not _is_half(coarse.shape, fine.shape):
                raise _wrong_step(coarse.shape, fine.shape)


def _is_half(coarse: torch.Size, fine: torch.Size) -> bool:
    return all(small == (large + 1) // 2 for small, large in zip(coarse[-2:], fine[-2:], strict=True))


def _wrong_step(coarse: torch.Size, fine: torch.Size) -> UserError:
    sizes = f"{coarse[-2]}x{coarse[-1]} to {fine[-2]}x{fine[-1]}"
    return UserError(f"an interpolator upsamples twofold, but a step of this pyramid is from {sizes}")
