"""Mean and standard deviation of pixels that timm states for a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Triple = tuple[float, float, float]

IMAGENET: dict[str, Triple] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""RGB, for pixel values in 0..1."""

_TOLERANCE = 0.01
"""More than the rounding in published recipes, such as 127 / 255 for 0.5."""

_IMAGENET_NETWORKS = re.compile(r"(resnet|resnest)\d|swin_(tiny|small|base|large)")
"""Networks of the shipped presets, with ImageNet's statistics: timm, which takes a second to import, is not asked."""


def network_statistics(network: object) -> dict[str, Triple]:
    """``mean`` and ``std`` of the images on which the weights of a network were trained.

    Args:
        network: timm's name, perhaps with the tag of its weights.

    Returns:
        ImageNet's where timm has no description of the network, as for an unknown name.
    """
    if not isinstance(network, str) or _IMAGENET_NETWORKS.match(network):
        return dict(IMAGENET)
    from timm.models import get_pretrained_cfg

    try:
        description = get_pretrained_cfg(network)
    except RuntimeError:  # an unknown tag, which the backbone reports
        description = None
    if description is None or len(description.mean) != len(IMAGENET["mean"]):
        return dict(IMAGENET)
    return {"mean": _triple(description.mean), "std": _triple(description.std)}


def _triple(values: Iterable[float]) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue


def differing_statistics(trained: Mapping[str, Triple], present: Mapping[str, Triple]) -> list[str]:
    """The keys of ``trained``, ``mean`` or ``std``, whose values in ``present`` are not the same to 0.01."""
    pairs = {key: zip(values, present[key], strict=True) for key, values in trained.items()}
    return [key for key in pairs if any(abs(a - b) > _TOLERANCE for a, b in pairs[key])]
