"""The contract of a backbone, and the base class of backbones with a network of timm.

Legend: N images, H x W pixels. Stages are counted as in detectron2: the stem is 1, ``res2`` is 2, ``res5`` is 5.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, cast

import timm
import torch
from timm.models import FeatureListNet, get_pretrained_cfg
from torch import Tensor, nn

from afictl.backbones.norms import freeze_batch_norm
from afictl.backbones.options import NetworkOptions, check_ranges
from afictl.errors import UserError, describe_out_of_memory, did_you_mean, one_line

LEVELS = ("res2", "res3", "res4", "res5")

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
# Arguments of timm's models that concern their classifier, or that the backbone itself sets.
_NOT_OPTIONS = {"in_chans", "num_classes", "global_pool", "drop_rate", "device", "dtype", "output_stride"}


class FeatureExtractor(Protocol):
    """Normalised images (N, 3, H, W) -> levels, each (N, channels, H / stride, W / stride), rounded up."""

    name: str
    """timm's name of the network, perhaps with the tag of its weights."""
    channels: dict[str, int]
    """Channels of each level, finest first."""
    strides: dict[str, int]
    """Stride of each level in pixels."""
    converts_deviation: bool
    """Whether ``convert_classifier`` scales the first convolution to the deviation of the detector's images."""

    @property
    def net(self) -> nn.Module:
        """The network."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised ``images`` (N, 3, H, W) -> ``res*``, finest first."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the backbone."""

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's ImageNet classifier under the names in ``net``, without the classifier's last layer."""


class Backbone(nn.Module):
    """A ``FeatureExtractor`` with timm's feature extractor; every weight is random.

    Args:
        name: timm's name of the network, perhaps with the tag of its weights.
        net: result of ``create_net``.
        levels: names of the maps of ``net``.
        norm: batch norm of the trainable stages, trained or with fixed statistics and scale.
        frozen: names of the modules in ``net`` that are not trained.
    """

    converts_deviation = False

    def __init__(
        self,
        name: str,
        net: FeatureListNet,
        levels: Sequence[str],
        *,
        norm: Literal["batch", "frozen-batch"],
        frozen: Iterable[str],
    ) -> None:
        super().__init__()
        self.name = name
        self.net = net
        self.channels: dict[str, int] = dict(zip(levels, net.feature_info.channels(), strict=True))
        self.strides: dict[str, int] = dict(zip(levels, net.feature_info.reduction(), strict=True))
        if any(self.strides[level] != STRIDES[level] for level in levels):
            strides = ", ".join(f"{level} of {stride}" for level, stride in self.strides.items())
            raise UserError(f"backbone.options: {name} has {strides} with them; strides must be 4, 8, 16 and 32")
        if norm == "frozen-batch":
            freeze_batch_norm(net)
        self._frozen = tuple(frozen)
        for part in self._frozen:
            net.set_submodule(part, freeze_batch_norm(net.get_submodule(part)).requires_grad_(False))

    def train(self, mode: bool = True) -> Backbone:
        """Set train or eval mode; frozen stages stay in eval mode, so that none of their paths is dropped."""
        super().train(mode)
        for part in self._frozen:
            self.net.get_submodule(part).eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised ``images`` (N, 3, H, W) -> its levels, finest first."""
        return dict(zip(self.channels, self.net(images), strict=True))

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's ImageNet classifier under the names in ``net``, without the classifier's last layer."""
        raise NotImplementedError


def create_net(
    name: str,
    options: Mapping[str, object],
    model: type[nn.Module],
    schema: type[NetworkOptions],
    out_indices: Sequence[int],
    *,
    check: bool = True,
    **settings: object,
) -> FeatureListNet:
    """timm's feature extractor of that name with random weights.

    Args:
        name: of the network.
        options: arguments of ``model``.
        model: timm's class of the network.
        schema: ranges of the options.
        out_indices: timm's indices of the maps to return.
        check: compute the maps of a small image if there are options.
        settings: further arguments of ``model``, which users cannot set.

    Raises:
        UserError: unknown tag of weights, unknown option, a number out of range, or options that do not fit together.
    """
    option_names = sorted(inspect.signature(model).parameters.keys() - _NOT_OPTIONS - settings.keys())
    for option in options:
        if option not in option_names:
            raise UserError(f"backbone.options: {name} has no option '{option}'{did_you_mean(option, option_names)}")
    check_ranges(schema, options)
    try:
        get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag
        raise UserError(f"backbone.name: '{name}': {error}") from None
    arguments: dict[str, Any] = {**settings, **options, "features_only": True, "out_indices": tuple(out_indices)}
    try:
        net = cast(FeatureListNet, timm.create_model(name, pretrained=False, **arguments))
        if check and options:
            _check_forward(net)
    except Exception as error:  # an invalid value can fail anywhere in timm's constructors
        if not options or describe_out_of_memory(error)[0]:
            raise
        raise invalid_options(name, options, error) from None
    return net


def invalid_options(name: str, options: Mapping[str, object], error: BaseException) -> UserError:
    """The error about options with which a network cannot be built or does not compute, for the reason of ``error``."""
    reason = one_line(error) or type(error).__name__
    return UserError(f"backbone.options: {dict(options)!s:.200} do not fit {name} ({reason:.200})")


def _check_forward(net: FeatureListNet) -> None:
    """Compute the maps of a small image: some invalid options fail only there."""
    image = torch.zeros(1, 3, 64, 64, device=next(net.parameters()).device)
    with torch.no_grad():
        net.eval()(image)
    net.train()


def parts_of_stages(net: nn.Module, stages: Sequence[str], count: int) -> list[str]:
    """Names of the parts of ``net`` that make up its first ``count`` stages, as far as it has them.

    Args:
        net: result of ``create_net``.
        stages: names of the parts of ``net`` that are ``res2``, ``res3``, ...; all other parts are the stem.
        count: number of stages, of which the stem is the first.
    """
    parts = [name for name, _ in net.named_children()]
    stem = [name for name in parts if name not in stages]
    return [*stem, *(name for name in stages[: count - 1] if name in parts)] if count else []
