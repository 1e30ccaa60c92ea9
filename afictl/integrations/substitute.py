"""Put an interpolator into somebody else's model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from afictl.errors import UserError
from afictl.integrations.sites import UpsamplingSite
from afictl.integrations.torchvision import torchvision_places


def substitute_interpolator(model: nn.Module, interpolator: nn.Module) -> int:
    """Let ``interpolator`` enlarge the maps in every feature pyramid of ``model``, which is changed in place.

    Works on torchvision's detectors with an FPN, on detectron2's models with an FPN (whatever stands behind it), on
    afictl's detectors, and on models that hold one. All other weights, their names and the losses stay as they are;
    with nearest interpolation a model computes what it computed before, bit for bit. A second call replaces the
    interpolator of the first. Call it before the optimizer is made and before the model is wrapped for several
    devices, which both would miss the new parameters.

    Args:
        model: the model, or any module with such a pyramid in it.
        interpolator: called ``interpolator(coarse, fine)``, (N, C, h, w) -> (N, C, 2h, 2w). The module itself is
            used, by all pyramids of the model, and not copied: it moves to the device and floating-point type of
            the pyramid, and to its train or eval mode. An afictl detector also notes its ``kind`` and ``options``
            in ``detector.preset``.

    Returns:
        How often one forward pass of ``model`` calls the interpolator.

    Raises:
        UserError: not modules, no such pyramid, one of a class derived from those known here, one whose steps are
            not twofold, or an interpolator made for another number of channels. The model is then unchanged.
    """
    for name, value in (("model", model), ("interpolator", interpolator)):
        if not isinstance(value, nn.Module):
            raise UserError(f"substitute_interpolator: {name} is a torch.nn.Module, not {value!r:.80}")
    detectors: list[Any] = [module for module in model.modules() if _is_detector(module)]
    if detectors:
        _require_description(interpolator)
    places = [place for place in _places(model) if place.steps > 0]
    if not places:
        raise UserError(
            f"{type(model).__name__} has no enlargement to replace: neither torchvision's FeaturePyramidNetwork nor "
            "detectron2's FPN nor a neck of afictl is in it (SSD and ViTDet have none)"
        )
    for place in places:
        _check_width(place, interpolator)
    for place in places:
        place.pyramid.__class__ = place.becomes
        place.pyramid.interpolator = interpolator.to(place.weight).train(place.pyramid.training)
    described: Any = interpolator
    for detector in detectors:
        detector.preset = detector.preset.with_interpolator(described.kind, described.options)
    return sum(place.steps for place in places)


def _is_detector(module: nn.Module) -> bool:
    """Whether it is a detector of afictl; told by its parts, for ``detectors`` imports this package."""
    return all(hasattr(module, name) for name in ("preset", "neck", "head"))


def _places(model: nn.Module) -> Iterator[UpsamplingSite]:
    for module in model.modules():
        # The neck of an adapted detector is no module; the pyramid that it shows is found below.
        if _is_detector(module) and isinstance(neck := cast(Any, module).neck, nn.Module):
            neck = cast(Any, neck)
            yield UpsamplingSite(neck, neck.channels, neck.num_upsamplers, next(neck.parameters()), type(neck))
    yield from torchvision_places(model)
    # A model of detectron2 exists only where that module is loaded already.
    if "detectron2.modeling.backbone.fpn" in sys.modules:
        from afictl.integrations.detectron2_pyramids import detectron2_places

        yield from detectron2_places(model)


def _require_description(interpolator: Any) -> None:
    missing = [name for name in ("kind", "channels", "options") if not hasattr(interpolator, name)]
    if missing:
        raise UserError(f"{type(interpolator).__name__} has no {', no '.join(missing)}: a preset cannot name it")


def _check_width(place: UpsamplingSite, interpolator: nn.Module) -> None:
    width = getattr(interpolator, "channels", place.channels)
    if width != place.channels:
        raise UserError(
            f"the interpolator is made for {width} channels, the model's {type(place.pyramid).__name__} has "
            f"{place.channels}; make one of {place.channels} channels"
        )
