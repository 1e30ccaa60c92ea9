"""detectron2's feature pyramid with any interpolator inside; imported only for models that detectron2 built.

Source of the class that is extended: detectron2.modeling.backbone.fpn.FPN, https://github.com/facebookresearch/detectron2.
"""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from afictl.errors import UserError
from afictl.integrations.place import Place
from afictl.necks.enlarge import enlarge_to


class InterpolatedFPN(FPN):
    """An ``FPN`` whose top-down path enlarges with its part ``interpolator``."""

    interpolator: nn.Module

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) -> maps ``p{i}`` (N, C, H / 2^i, W / 2^i), finest first."""
        bottom_up = self.bottom_up(x)
        names = list(self.output_shape())
        running = self.lateral_convs[0](bottom_up[self.in_features[-1]])
        outputs = [self.output_convs[0](running)]
        finer = zip(reversed(self.in_features[:-1]), self.lateral_convs[1:], self.output_convs[1:], strict=True)
        for name, lateral_conv, output_conv in finer:
            lateral = lateral_conv(bottom_up[name])
            running = lateral + enlarge_to(self.interpolator, running, lateral)
            if self._fuse_type == "avg":
                running = running / 2
            outputs.insert(0, output_conv(running))
        if self.top_block is not None:
            known = {**dict(zip(names, outputs, strict=False)), **bottom_up}
            outputs.extend(self.top_block(known[self.top_block.in_feature]))
        return dict(zip(names, outputs, strict=True))


def detectron2_places(model: nn.Module) -> Iterator[Place]:
    """Every feature pyramid of detectron2 in ``model``.

    Raises:
        UserError: a pyramid of a derived class, which may work differently.
    """
    for module in model.modules():
        if isinstance(module, FPN):
            if type(module) not in (FPN, InterpolatedFPN):
                raise UserError(f"{type(module).__name__} has a way of its own to be an FPN; left alone")
            weight = module.lateral_convs[0].weight
            yield Place(module, len(weight), len(module.lateral_convs) - 1, weight, InterpolatedFPN)
