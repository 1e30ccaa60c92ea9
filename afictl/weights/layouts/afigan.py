"""Single networks of stage 1 of the public AFI-GAN: generator (AF interpolator) and discriminator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

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
_GENERATOR_START = f"{_GENERATOR}0.0.weight"
_DISCRIMINATOR_START = "Discriminators.0.0.0.weight"


def translate_generator(checkpoint: Checkpoint) -> Checkpoint | None:
    """A generator as an AF interpolator; its tensor names may have a prefix such as ``srf_module.``."""
    prefix = _prefix(checkpoint.tensors, _GENERATOR_START)
    if prefix is None:
        return None
    tensors = _without(checkpoint.tensors, prefix)
    channels = tensors[_GENERATOR_START].shape[0]
    options = generator_options(tensors, _GENERATOR)
    with torch.device("meta"):
        network = AFInterpolator(channels, blocks=options["blocks"], growth=options["growth"])
    metadata = {"format": AFI_FORMAT, "config": network.config, **_origin("a generator of AFI-GAN")}
    return replace(checkpoint, tensors=_rename(tensors, network, generator_key), metadata=metadata)


def translate_discriminator(checkpoint: Checkpoint) -> Checkpoint | None:
    """A discriminator under afictl's tensor names."""
    prefix = _prefix(checkpoint.tensors, _DISCRIMINATOR_START)
    if prefix is None:
        return None
    tensors = _without(checkpoint.tensors, prefix)
    channels = tensors[_DISCRIMINATOR_START].shape[1]
    with torch.device("meta"):
        network = PatchDiscriminator(channels)
    metadata = {"format": DISCRIMINATOR, "config": {"channels": channels}, **_origin("a discriminator of AFI-GAN")}
    return replace(checkpoint, tensors=_rename(tensors, network, discriminator_key), metadata=metadata)


def _origin(layout: str) -> dict[str, object]:
    return {"version": VERSION, "origin": {"layout": layout, "notes": []}}


def _prefix(tensors: Mapping[str, Tensor], first: str) -> str | None:
    """The prefix of the convolution weight ``first``; None if there is no such tensor."""
    for name, value in tensors.items():
        if name == first or name.endswith(f".{first}"):
            return name.removesuffix(first) if value.ndim == 4 and value.numel() else None
    return None


def _without(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items()}


def _rename(tensors: dict[str, Tensor], network: nn.Module, key: Callable[[str], str]) -> dict[str, Tensor]:
    """``tensors`` under the names of ``network``; names of tensors without a counterpart are unchanged."""
    remaining = dict(tensors)
    renamed = {name: remaining.pop(key(name)) for name in network.state_dict() if key(name) in remaining}
    return renamed | remaining
