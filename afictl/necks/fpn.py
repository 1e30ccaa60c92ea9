"""Feature pyramid network (Lin et al., https://arxiv.org/abs/1612.03144) with any interpolator inside.

Initialisation and the levels above ``p5`` as in detectron2. Shapes: N images, C channels, H x W the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators import Interpolator
from afictl.necks.neck import make_conv, upsample_to

_FORMER_NAMES = {"laterals": "lateral_convs", "outputs": "output_convs", "halvings": "downsample_convs"}
"""Parts of ``FPN`` and ``PAFPN`` in files of earlier versions -> today's names."""


class FPN(nn.Module):
    """``res2..res5`` -> ``p2..p6``, or ``res3..res5`` -> ``p3..p7``, all with the same number of channels.

    Args:
        in_channels: channels of the backbone levels that the neck reads, finest first.
        interpolator: one module for all upsampling, called ``interpolator(coarse, fine)``, or a
            ``PerStepInterpolator`` of ``num_upsamplers`` steps.
        channels: C.
        norm: batch norm after every convolution, or none.
        fuse: the upsampled map is added to the finer one, or averaged with it.
        top: input of the levels above p5. ``pool``: p6 is every second position of p5; ``p5``, ``res5``: p6 and p7 are
            strided convolutions of that map.
        top_down_from: coarsest level of the top-down path. With ``p6``, p6 is a strided convolution of res5 for every
            ``top``, has an output convolution like the other levels, and is upsampled to p5.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        interpolator: Interpolator,
        *,
        channels: int,
        norm: Literal["none", "batch"] = "none",
        fuse: Literal["sum", "avg"] = "sum",
        top: Literal["pool", "p5", "res5"] = "pool",
        top_down_from: Literal["p5", "p6"] = "p5",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.interpolator = interpolator
        self._sources = {name.replace("res", "p"): name for name in in_channels}
        with_norm = norm == "batch"
        self.lateral_convs = nn.ModuleDict(
            {
                level: make_conv(in_channels[source], channels, 1, norm=with_norm)
                for level, source in self._sources.items()
            }
        )
        if top_down_from == "p6":
            self._sources["p6"] = "res5"
            self.lateral_convs["p6"] = make_conv(in_channels["res5"], channels, 3, stride=2, norm=with_norm)
        self.output_convs = nn.ModuleDict(
            {level: make_conv(channels, channels, 3, norm=with_norm) for level in self._sources}
        )
        self.top = _make_top(top, in_channels["res5"], channels, has_p6="p6" in self._sources)
        levels = dict.fromkeys([*self._sources, "p6", *(["p7"] if top != "pool" else [])])
        self.strides = {level: 2 ** int(level[1:]) for level in levels}
        self.size_divisor = self.strides[[*self._sources][-1]]
        self.num_upsamplers = len(self._sources) - 1
        self._scale = {"sum": 1.0, "avg": 0.5}[fuse]
        self._top_source = top
        self.register_load_state_dict_pre_hook(_rename_former_keys)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``res{i}`` (N, c_i, H / 2^i, W / 2^i) -> ``p{i}`` (N, C, H / 2^i, W / 2^i), rounded up."""
        maps = self.merge(features)
        pyramid = {level: self.output_convs[level](maps[level]) for level in self._sources}
        return pyramid | self._above({**features, **pyramid})

    def merge(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Backbone maps -> the fused maps (N, C, h, w) of their levels, before the output convolutions."""
        maps = {level: self.lateral_convs[level](features[source]) for level, source in self._sources.items()}
        steps = reversed(range(self.num_upsamplers))
        for step, (coarse, fine) in zip(steps, pairwise(reversed(self._sources)), strict=True):
            upsampled = upsample_to(self.interpolator, maps[coarse], maps[fine], step)
            maps[fine] = self._fuse(maps[fine], upsampled)
        return maps

    def _fuse(self, lateral: Tensor, neighbour: Tensor) -> Tensor:
        return (lateral + neighbour) * self._scale

    def _above(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The levels above ``p5``."""
        if "p6" in maps:
            p6 = maps["p6"]
        elif self.top:
            p6 = self.top["p6"](maps[self._top_source])
        else:
            p6 = F.max_pool2d(maps["p5"], kernel_size=1, stride=2)
        return {"p6": p6, "p7": self.top["p7"](F.relu(p6))} if self.top else {"p6": p6}


def rename_former_keys(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """A state dict of an earlier version under today's names; ``prefix`` is that of the neck, such as ``neck.``."""
    former = re.compile(rf"^{re.escape(prefix)}({'|'.join(_FORMER_NAMES)})(?=\.p\d)")
    return {former.sub(lambda match: prefix + _FORMER_NAMES[match[1]], key, count=1): state[key] for key in state}


def _rename_former_keys(neck: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Hook of ``load_state_dict``, which gives it a copy of the state dict to change."""
    renamed = rename_former_keys(state, prefix)
    state.clear()
    state.update(renamed)


def _make_top(top: Literal["pool", "p5", "res5"], res5_channels: int, channels: int, *, has_p6: bool) -> nn.ModuleDict:
    """Convolutions of p6, unless the top-down path has it, and of p7, never with a norm; empty for ``pool``."""
    if top == "pool":
        return nn.ModuleDict()
    in_channels = res5_channels if top == "res5" else channels
    p6 = {} if has_p6 else {"p6": make_conv(in_channels, channels, 3, stride=2)}
    return nn.ModuleDict({**p6, "p7": make_conv(channels, channels, 3, stride=2)})
