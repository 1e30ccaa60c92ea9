"""The networks of the public AFI-GAN's first stage, each alone: generator (AF interpolator) and discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from afictl.discriminator import PatchDiscriminator
from afictl.interpolators import AFInterpolator
from afictl.interpolators.base import AFI_FORMAT
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import DISCRIMINATOR, VERSION
from afictl.weights.layouts.detectron2_names import discriminator_key, generator_key
from afictl.weights.layouts.detectron2_preset import generator_options

_GENERATOR = "Generators.0."
_FIRST_OF_GENERATOR = f"{_GENERATOR}0.0.weight"
_FIRST_OF_DISCRIMINATOR = "Discriminators.0.0.0.weight"


def translate_generator(checkpoint: Checkpoint) -> Checkpoint | None:
    """A generator as an interpolator file of ours; also one that still has a name such as ``srf_module.`` before it."""
    prefix = _prefix(checkpoint.tensors, _FIRST_OF_GENERATOR)
    if prefix is None:
        return None
    tensors = _without(checkpoint.tensors, prefix)
    channels = tensors[_FIRST_OF_GENERATOR].shape[0]
    config = {"channels": channels, **generator_options(tensors, _GENERATOR)}
    with torch.device("meta"):
        network = AFInterpolator(**config)
    metadata = {"format": AFI_FORMAT, "config": network.config, **_about("a generator of AFI-GAN")}
    return Checkpoint(checkpoint.path, _to_our_names(tensors, network, generator_key), metadata)


def translate_discriminator(checkpoint: Checkpoint) -> Checkpoint | None:
    """A discriminator in our names."""
    prefix = _prefix(checkpoint.tensors, _FIRST_OF_DISCRIMINATOR)
    if prefix is None:
        return None
    tensors = _without(checkpoint.tensors, prefix)
    channels = tensors[_FIRST_OF_DISCRIMINATOR].shape[1]
    with torch.device("meta"):
        network = PatchDiscriminator(channels)
    metadata = {"format": DISCRIMINATOR, "config": {"channels": channels}, **_about("a discriminator of AFI-GAN")}
    return Checkpoint(checkpoint.path, _to_our_names(tensors, network, discriminator_key), metadata)


def _about(layout: str) -> dict[str, object]:
    return {"version": VERSION, "origin": {"layout": layout, "notes": []}}


def _prefix(tensors: Mapping[str, Tensor], first: str) -> str | None:
    """What stands before the name ``first``; None when no convolution has it."""
    for name, value in tensors.items():
        if name == first or name.endswith(f".{first}"):
            return name.removesuffix(first) if value.ndim == 4 and value.numel() else None
    return None


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _to_our_names(tensors: dict[str, Tensor], network: nn.Module, key: Callable[[str], str]) -> dict[str, Tensor]:
    """``tensors`` under the names of ``network``; what has no place keeps its name."""
    left = dict(tensors)
    ours = {name: left.pop(key(name)) for name in network.state_dict() if key(name) in left}
    return ours | left
