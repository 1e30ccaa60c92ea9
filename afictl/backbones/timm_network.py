"""Every other network of timm with maps of strides 4, 8, 16 and 32: ConvNeXt, EfficientNet, RegNet, MaxViT, ..."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

from timm.models import FeatureListNet, get_pretrained_cfg
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.backbones.backbone import LEVELS, STRIDES, Backbone, create_net, invalid_options
from afictl.backbones.checkpointing import checkpoint_blocks
from afictl.backbones.feature_probe import FeatureProbe, UnsuitableMapsError, probe_features
from afictl.backbones.options import NetworkOptions
from afictl.backbones.timm_architecture import Architecture, find_architecture
from afictl.errors import UserError, describe_out_of_memory, one_line
from afictl.meta_device import building_on_meta_device, require_bounded_options

_MAX_SHARE = 0.25
"""Of the parameters, on which res2 may depend where stages are frozen one by one."""


class TimmNetwork(Backbone):
    """A network of timm, with channels, strides and layout of its maps as timm describes them.

    Stages are what the maps are computed from: ``res3`` is what its map needs and that of ``res2`` does not. Images are
    padded with zeros at the right and bottom to a multiple of ``divisor``, and the maps cropped. The arguments are keys
    of ``BackboneConfig``.

    Attributes:
        divisor: 32, or more for a network whose windows divide its coarsest map.

    Raises:
        UserError: a network without maps of these strides or for images of one size only, an invalid option, or a
            setting that the network cannot have.
    """

    def __init__(
        self,
        name: str,
        levels: Sequence[str] = LEVELS,
        *,
        options: Mapping[str, object],
        frozen_stages: int,
        norm: Literal["batch", "frozen-batch"],
        stride_in_1x1: bool,
        checkpointing: bool,
    ) -> None:
        if stride_in_1x1:
            raise UserError(f"backbone.stride_in_1x1: {name} is no ResNet; set it to false")
        architecture = find_architecture(name.split(".")[0])
        probe = _probe(name, json.dumps(options, sort_keys=True))
        net = _create(name, architecture, options)
        stages = _stages(net, architecture, probe)
        if 1 < frozen_stages < len(LEVELS) + 1:
            _require_separate_stages(name, net, stages)
        fixed = {key for key, _ in net.named_parameters() if stages.get(key, frozen_stages + 1) <= frozen_stages}
        super().__init__(name, net, LEVELS, norm=norm, frozen=_complete_modules(net, fixed))
        returned = {LEVELS.index(level) for level in levels}
        for key, parameter in net.named_parameters():
            if key in fixed or returned.isdisjoint(probe.maps.get(key, ())):
                parameter.requires_grad_(False)
        self.channels, self.strides = ({level: of[level] for level in levels} for of in (self.channels, self.strides))
        self.divisor = probe.divisor
        self._architecture = architecture
        self._channels_last = probe.channels_last
        if checkpointing and not (architecture.has_checkpointing() and checkpoint_blocks(net)):
            raise UserError(f"backbone.checkpointing: timm has none for {name}; set it to false")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised ``images`` (N, 3, H, W) -> its levels, finest first; any H and W."""
        height, width = images.shape[-2:]
        bottom, right = -height % self.divisor, -width % self.divisor
        maps = self.net(F.pad(images, (0, right, 0, bottom)) if bottom or right else images)
        levels: dict[str, Tensor] = {}
        for level, value in zip(LEVELS, maps, strict=True):
            if level in self.channels:
                stride = self.strides[level]
                value = value.permute(0, 3, 1, 2) if self._channels_last else value
                levels[level] = value[..., : -(-height // stride), : -(-width // stride)].contiguous()
        return levels

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of timm's classifier, or of the original project, without the layers of the classifier alone."""
        return self._architecture.names_in(self.net.state_dict().keys(), tensors)


def _create(name: str, architecture: Architecture, options: Mapping[str, object]) -> FeatureListNet:
    """timm's feature extractor with the four maps."""
    indices = [architecture.map_index(STRIDES[level]) for level in LEVELS]
    if None in indices:
        strides = sorted({feature["reduction"] for feature in architecture.features})
        available = f"strides {', '.join(map(str, strides))} only" if strides else "none"
        raise UserError(
            f"backbone.name: {name} has feature maps of {available}; a backbone needs 4, 8, 16 and 32, as ConvNeXts and"
            " EfficientNets have"
        )
    settings = {"dynamic_img_size": True} if architecture.has_option("dynamic_img_size") else {}
    out_indices = [index for index in indices if index is not None]
    try:
        return create_net(name, options, architecture.model, NetworkOptions, out_indices, check=False, **settings)
    except (AssertionError, RuntimeError) as error:
        if describe_out_of_memory(error)[0]:
            raise
        raise UserError(f"backbone.name: timm gives no feature maps of {name} ({one_line(error):.200})") from None


@lru_cache(maxsize=16)
def _probe(name: str, options_json: str) -> FeatureProbe:
    """Properties of the network with ``options_json``, a dict as JSON."""
    options = json.loads(options_json)
    require_bounded_options(options, "backbone.options")
    architecture = find_architecture(name.split(".")[0])
    with building_on_meta_device("backbone.options"):
        net = _create(name, architecture, options)
    try:
        return probe_features(net)
    except UnsuitableMapsError as error:
        if options:
            raise invalid_options(name, options, error.__cause__ or error) from None
        raise UserError(f"backbone.name: {name} {error}{_size(name) if error.__cause__ else ''}") from None


def _size(name: str) -> str:
    """The end of an error about a network for images of one size."""
    description = get_pretrained_cfg(name)
    size = f" ({description.input_size[-1]} pixels in timm)" if description else ""
    return f"{size}; choose a network for images of any size"


def _stages(net: nn.Module, architecture: Architecture, probe: FeatureProbe) -> dict[str, int]:
    """Name of a parameter -> number of its stage: 1 for the stem, 2 for ``res2``; unused parameters are absent."""
    stem = architecture.stem_in(net)
    stages = {name: 2 + maps[0] for name, maps in probe.maps.items() if maps}
    return {name: 1 if stage == 2 and name in stem else stage for name, stage in stages.items()}


def _require_separate_stages(name: str, net: nn.Module, stages: Mapping[str, int]) -> None:
    sizes = {key: parameter.numel() for key, parameter in net.named_parameters()}
    share = sum(size for key, size in sizes.items() if stages.get(key, 0) in (1, 2)) / sum(sizes.values())
    if share > _MAX_SHARE:
        raise UserError(
            f"backbone.frozen_stages: res2 of {name} depends on {share:.0%} of its parameters, so that its stages"
            f" cannot be frozen one by one; set it to 0, 1 or {len(LEVELS) + 1}"
        )


def _complete_modules(net: nn.Module, fixed: set[str]) -> list[str]:
    """Names of the largest modules of ``net`` whose parameters are all among ``fixed``."""
    complete: list[str] = []
    for name, module in net.named_modules():
        prefix = f"{name}." if name else ""
        names = [prefix + key for key, _ in module.named_parameters()]
        inside = any(name.startswith(f"{outer}.") for outer in complete)
        if name and names and not inside and fixed.issuperset(names):
            complete.append(name)
    return complete
