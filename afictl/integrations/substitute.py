"""Substitution of the interpolator in models of afictl and of other libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol, TypeGuard, cast

from torch import nn

from afictl.errors import UserError
from afictl.integrations.sites import UpsamplingSite, neck_site
from afictl.integrations.torchvision_pyramids import torchvision_sites
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.interpolators.per_step import check_steps, with_steps
from afictl.necks import Neck, preset_with
from afictl.presets import Preset


def substitute_interpolator(model: nn.Module, interpolator: nn.Module, *, per_step: bool | None = None) -> int:
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
        per_step: True gives every enlargement of every pyramid a copy of ``interpolator``, with weights of its own
            from then on, as a ``PerStepInterpolator``; such a module itself is used as it is. False shares one
            module. None keeps what each pyramid has, which in a model of another library is a shared one at first.

    Returns:
        How often one forward pass of ``model`` calls the interpolator.

    Raises:
        UserError: not modules, no such pyramid, one of a class derived from the supported ones, one with a step that
            is not twofold, or an interpolator made for another number of channels or steps. The model is then
            unchanged.
    """
    for name, value in (("model", model), ("interpolator", interpolator)):
        if not isinstance(value, nn.Module):
            raise UserError(f"substitute_interpolator: {name} is a torch.nn.Module, not {value!r:.80}")
    detectors = [module for module in model.modules() if _is_detector(module)]
    sites = [site for site in _upsampling_sites(model) if site.num_upsamplers > 0]
    if not sites:
        raise UserError(
            f"{type(model).__name__} has no upsampling step to replace: it contains neither torchvision's "
            "FeaturePyramidNetwork nor detectron2's FPN nor a neck of afictl (SSD and ViTDet have none)"
        )
    has_steps = [_has_steps(site, interpolator) if per_step is None else per_step for site in sites]
    if detectors or any(has_steps):
        _require_description(interpolator)
    for site, site_has_steps in zip(sites, has_steps, strict=True):
        _check_width(site, interpolator)
        check_steps(interpolator, site_has_steps, site.num_upsamplers)
    for site, site_has_steps in zip(sites, has_steps, strict=True):
        module = with_steps(cast(Interpolator, interpolator), site_has_steps, site.num_upsamplers)
        site.pyramid.__class__ = site.new_class
        site.pyramid.interpolator = module.to(site.weight).train(site.pyramid.training)
    for detector in detectors:
        detector.preset = preset_with(detector.preset, detector.neck.interpolator)
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


def _has_steps(site: UpsamplingSite, interpolator: nn.Module) -> bool:
    """Whether each enlargement has a module of its own, in the present pyramid or in ``interpolator``."""
    return any(isinstance(part, PerStepInterpolator) for part in (interpolator, *site.pyramid.children()))


def _check_width(site: UpsamplingSite, interpolator: nn.Module) -> None:
    width = getattr(interpolator, "channels", site.channels)  # any module can upsample; some have a fixed width
    if width != site.channels:
        raise UserError(
            f"the interpolator is made for {width} channels, the model's {type(site.pyramid).__name__} has "
            f"{site.channels}; make one of {site.channels} channels"
        )
