"""Substitution of the interpolator in models of afictl and of other libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol, TypeGuard, cast

from torch import nn

from afictl.errors import UserError
from afictl.integrations.sites import UpsamplingSite, neck_site
from afictl.integrations.torchvision_pyramids import torchvision_sites
from afictl.interpolators import Interpolator
from afictl.necks import Neck
from afictl.presets import Preset


def substitute_interpolator(model: nn.Module, interpolator: nn.Module) -> int:
    """Put ``interpolator`` into every feature pyramid of ``model``, which is changed in place.

    Works on torchvision's detectors with an FPN, on detectron2's models with an FPN (and any heads), on
    afictl's detectors, and on models that contain one. All other weights, their names and the losses are unchanged;
    with nearest interpolation a model computes what it computed before, bit for bit. A second call replaces the
    interpolator of the first. Call it before the optimizer is made and before the model is wrapped for several
    devices: both would miss the new parameters.

    Args:
        model: the model, or any module with such a pyramid in it.
        interpolator: called ``interpolator(coarse, fine)``, (N, C, h, w) -> (N, C, 2h, 2w). The module itself is
            used, by all pyramids of the model, and not copied: it moves to the device and floating-point type of
            the pyramid, and to its train or eval mode. In an afictl detector, its ``kind`` and ``options`` also
            replace those in ``detector.preset``.

    Returns:
        How often one forward pass of ``model`` calls the interpolator.

    Raises:
        UserError: not modules, no such pyramid, one of a class derived from the supported ones, one with a step that
            is not twofold, or an interpolator made for another number of channels. The model is then unchanged.
    """
    for name, value in (("model", model), ("interpolator", interpolator)):
        if not isinstance(value, nn.Module):
            raise UserError(f"substitute_interpolator: {name} is a torch.nn.Module, not {value!r:.80}")
    detectors = [module for module in model.modules() if _is_detector(module)]
    if detectors:
        _require_description(interpolator)
    sites = [site for site in _upsampling_sites(model) if site.num_upsamplers > 0]
    if not sites:
        raise UserError(
            f"{type(model).__name__} has no upsampling step to replace: it contains neither torchvision's "
            "FeaturePyramidNetwork nor detectron2's FPN nor a neck of afictl (SSD and ViTDet have none)"
        )
    for site in sites:
        _check_width(site, interpolator)
    for site in sites:
        site.pyramid.__class__ = site.new_class
        site.pyramid.interpolator = interpolator.to(site.weight).train(site.pyramid.training)
    for detector in detectors:
        module = cast(Interpolator, interpolator)
        detector.preset = detector.preset.with_interpolator(module.kind, module.options)
    return sum(site.num_upsamplers for site in sites)


class _Detector(Protocol):
    """A detector of afictl."""

    preset: Preset
    neck: Neck
    head: object


def _is_detector(module: object) -> TypeGuard[_Detector]:
    # Recognised by its parts, since afictl.detectors imports this package.
    return all(hasattr(module, name) for name in ("preset", "neck", "head"))


def _upsampling_sites(model: nn.Module) -> Iterator[UpsamplingSite]:
    for module in model.modules():
        # The neck of an adapted detector is a view, no module; its pyramid is yielded below.
        if _is_detector(module) and isinstance(module.neck, nn.Module):
            yield neck_site(module.neck)
    yield from torchvision_sites(model)
    # Only a process that has loaded this module can have a model of detectron2.
    if "detectron2.modeling.backbone.fpn" in sys.modules:
        from afictl.integrations.detectron2_pyramids import detectron2_sites

        yield from detectron2_sites(model)


def _require_description(interpolator: nn.Module) -> None:
    missing = [name for name in ("kind", "channels", "options") if not hasattr(interpolator, name)]
    if missing:
        raise UserError(f"{type(interpolator).__name__} has no {', no '.join(missing)}: a preset cannot name it")


def _check_width(site: UpsamplingSite, interpolator: nn.Module) -> None:
    width = getattr(interpolator, "channels", site.channels)  # any module can upsample; some have a fixed width
    if width != site.channels:
        raise UserError(
            f"the interpolator is made for {width} channels, the model's {type(site.pyramid).__name__} has "
            f"{site.channels}; make one of {site.channels} channels"
        )
