"""What all backbones share: timm's network in the middle, frozen stages, levels out.

Shapes: N images, H x W pixels. Stages are counted as detectron2 does: the stem is 1, ``res2`` is 2, ``res5`` is 5.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

import timm
from timm.models import FeatureListNet, get_pretrained_cfg
from torch import Tensor, nn

from afictl.backbones.norms import freeze_batch_norm
from afictl.errors import UserError, did_you_mean, one_line
from afictl.presets import BackboneConfig

LEVELS = ("res2", "res3", "res4", "res5")

_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# Arguments of timm's models that concern their classifier, or that the backbone itself sets.
_NOT_OPTIONS = {"in_chans", "num_classes", "global_pool", "drop_rate", "device", "dtype", "output_stride"}


class FeatureExtractor(Protocol):
    """The contract of a backbone; besides ``Backbone``, views of other libraries' networks fulfil it."""

    name: str
    """timm's name of the network, perhaps with the tag of its weights."""
    channels: dict[str, int]
    """Channels of each level, finest first."""
    strides: dict[str, int]
    """Pixels a position of each level."""

    @property
    def net(self) -> nn.Module:
        """The network without its classifier."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) -> ``res{i}`` (N, channels, H / 2^i, W / 2^i), rounded up."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the network."""

    def plain_to_net(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's classifier of this name under the names in ``net``, without the classifier."""


class Backbone(nn.Module):
    """Normalised images (N, 3, H, W) -> levels, each (N, channels, H / stride, W / stride), rounded up.

    Attributes:
        name: timm's name of the network, perhaps with the tag of its weights.
        net: timm's feature extractor; ``plain_to_net`` says how its keys differ from those of timm's classifier.
        channels: channels of each level.
        strides: pixels a position of each level.

    Args:
        config: name, frozen stages and norm; every weight is random.
        net: what ``create_net`` gave.
        levels: names of the maps of ``net``.
        stages: names of the parts of ``net`` that are ``res2``, ``res3``, ...; the stem is all the others.
    """

    def __init__(
        self, config: BackboneConfig, net: FeatureListNet, levels: Sequence[str], stages: Sequence[str]
    ) -> None:
        super().__init__()
        self.name = config.name
        self.net = net
        self.channels: dict[str, int] = dict(zip(levels, net.feature_info.channels(), strict=True))
        self.strides: dict[str, int] = dict(zip(levels, net.feature_info.reduction(), strict=True))
        if any(self.strides[level] != _STRIDES[level] for level in levels):
            found = ", ".join(f"{level} of {stride}" for level, stride in self.strides.items())
            raise UserError(f"backbone.options: {config.options} give {found}; strides must be 4, 8, 16 and 32")
        if config.norm == "frozen-batch":
            freeze_batch_norm(net)
        self._frozen = _names_of_stages(net, stages, config.frozen_stages)
        for name in self._frozen:
            net[name] = freeze_batch_norm(net[name]).requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """As usual, but frozen stages stay in eval mode: nothing may be dropped from what never learns."""
        super().train(mode)
        for name in self._frozen:
            self.net[name].eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised ``images`` (N, 3, H, W) -> its levels, from fine to coarse."""
        return dict(zip(self.channels, self.net(images), strict=True))

    def plain_to_net(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's classifier of this name under the names in ``net``, without the classifier."""
        raise NotImplementedError


def create_net(
    config: BackboneConfig, model: type[nn.Module], out_indices: Sequence[int], **settings: Any
) -> FeatureListNet:
    """timm's feature extractor of that name with random weights.

    Args:
        config: name and options.
        model: timm's class of the network; its arguments are the options.
        out_indices: timm's numbers of the maps to give.
        settings: further arguments of ``model``, which are no options.

    Raises:
        UserError: unknown tag of weights, unknown option, or options that do not fit together.
    """
    known = sorted(inspect.signature(model).parameters.keys() - _NOT_OPTIONS - settings.keys())
    for option in config.options:
        if option not in known:
            raise UserError(f"backbone.options: {config.name} has no option '{option}'{did_you_mean(option, known)}")
    try:
        get_pretrained_cfg(config.name)
    except RuntimeError as error:  # an unknown tag
        raise UserError(f"backbone.name: '{config.name}': {error}") from None
    arguments = {**settings, **config.options, "features_only": True, "out_indices": tuple(out_indices)}
    try:
        return cast(FeatureListNet, timm.create_model(config.name, pretrained=False, **arguments))
    except Exception as error:  # a bad value can fail anywhere in timm's constructors
        if not config.options:
            raise
        reason = one_line(error) or type(error).__name__
        raise UserError(f"backbone.options: {config.options} do not make a {config.name} ({reason:.200})") from None


def _names_of_stages(net: nn.Module, stages: Sequence[str], count: int) -> list[str]:
    """Names of the parts of ``net`` that make up its first ``count`` stages, as far as it has them."""
    parts = [name for name, _ in net.named_children()]
    stem = [name for name in parts if name not in stages]
    return [*stem, *(name for name in stages[: count - 1] if name in parts)] if count else []
