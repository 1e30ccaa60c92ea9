"""detectron2's backbones with a feature pyramid that has an interpolator; requires detectron2.

Source of the base classes: detectron2.modeling.backbone, https://github.com/facebookresearch/detectron2.
Both are plain modules, to be built directly or by ``LazyCall``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn

from afictl.errors import UserError
from afictl.integrations.sites import UpsamplingSite, neck_site
from afictl.interpolators import Interpolator
from afictl.necks import build_neck, input_levels
from afictl.necks.neck import upsample_to
from afictl.presets import parse_neck


class InterpolatedFPN(FPN):
    """detectron2's ``FPN`` whose top-down path upsamples with its part ``interpolator``.

    Names of all other parts are unchanged, so that checkpoints of a model with detectron2's ``FPN`` load.

    Args:
        interpolator: called ``interpolator(coarse, fine)``, (N, C, h, w) -> (N, C, 2h, 2w), or a
            ``PerStepInterpolator``.
        fpn: the arguments of ``FPN``: ``bottom_up``, ``in_features``, ``out_channels`` (C) and so on.

    Raises:
        UserError: the interpolator is made for another number of channels than ``out_channels``.
    """

    interpolator: Interpolator

    def __init__(self, interpolator: Interpolator, **fpn: object) -> None:
        super().__init__(**fpn)
        made_for, channels = getattr(interpolator, "channels", fpn["out_channels"]), fpn["out_channels"]
        if made_for != channels:
            raise UserError(f"the interpolator is made for {made_for} channels, the FPN has {channels}")
        self.interpolator = interpolator

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) -> maps ``p{i}`` (N, C, H / 2^i, W / 2^i), finest first."""
        return self.pyramid(self.bottom_up(x))

    def pyramid(self, bottom_up: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same from the maps of the bottom-up network."""
        names = list(self.output_shape())
        running = self.lateral_convs[0](bottom_up[self.in_features[-1]])
        outputs = [self.output_convs[0](running)]
        steps = reversed(list(enumerate(self.in_features[:-1])))
        for (step, name), lateral_conv, output_conv in zip(
            steps, self.lateral_convs[1:], self.output_convs[1:], strict=True
        ):
            lateral = lateral_conv(bottom_up[name])
            running = lateral + upsample_to(self.interpolator, running, lateral, step)
            if self._fuse_type == "avg":
                running = running / 2
            outputs.insert(0, output_conv(running))
        if self.top_block is not None:
            maps = {**dict(zip(names, outputs, strict=False)), **bottom_up}
            outputs.extend(self.top_block(maps[self.top_block.in_feature]))
        return dict(zip(names, outputs, strict=True))


class NeckBackbone(Backbone):
    """A bottom-up network of detectron2 and an afictl neck, as one detectron2 backbone.

    Args:
        bottom_up: returns ``res2..res5`` at strides 4..32; for a pyramid p3..p7 (BiFPN always) from ``res3``.
        interpolator: of the neck.
        neck: keys of ``afictl.presets.NeckConfig``, such as ``kind="bifpn", repeats=3``; ``kind`` is ``fpn`` and
            ``channels`` the interpolator's unless given.

    Raises:
        UserError: a key or value that no neck has, a level that ``bottom_up`` lacks or has at another
            stride, or an interpolator of another width.
    """

    def __init__(self, bottom_up: Backbone, interpolator: Interpolator, **neck: object) -> None:
        super().__init__()
        config = parse_neck({"channels": interpolator.channels, **neck})
        self.bottom_up = bottom_up
        self.neck = build_neck(config, _channels(bottom_up, input_levels(config)), interpolator)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) -> maps ``p{i}`` (N, C, H / 2^i, W / 2^i), finest first."""
        return self.pyramid(self.bottom_up(x))

    def pyramid(self, bottom_up: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same from the maps of the bottom-up network."""
        return self.neck(bottom_up)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each level."""
        return {name: ShapeSpec(channels=self.neck.channels, stride=s) for name, s in self.neck.strides.items()}

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of that many pixels."""
        return self.neck.size_divisor


def _channels(bottom_up: Backbone, levels: tuple[str, ...]) -> dict[str, int]:
    shapes = bottom_up.output_shape()
    for level in levels:
        if level not in shapes:
            raise UserError(
                f"the neck reads {', '.join(levels)}, the bottom-up network has {', '.join(shapes)}; "
                "for a ResNet see MODEL.RESNETS.OUT_FEATURES"
            )
        stride = 2 ** int(level.removeprefix("res"))
        if shapes[level].stride != stride:
            raise UserError(f"the neck needs {level} at stride {stride}, the bottom-up network has {shapes[level]}")
    return {level: shapes[level].channels for level in levels}


def detectron2_sites(model: nn.Module) -> Iterator[UpsamplingSite]:
    """Every feature pyramid of detectron2 in ``model``, and every neck of afictl in its backbones.

    Raises:
        UserError: a pyramid of a derived class, which may compute otherwise.
    """
    for module in model.modules():
        if isinstance(module, NeckBackbone):
            yield neck_site(module.get_submodule("neck"))
        if isinstance(module, FPN):
            if type(module) not in (FPN, InterpolatedFPN):
                raise UserError(f"{type(module).__name__} is derived from FPN and may compute otherwise")
            weight = module.lateral_convs[0].weight
            yield UpsamplingSite(module, len(weight), len(module.lateral_convs) - 1, weight, InterpolatedFPN)
