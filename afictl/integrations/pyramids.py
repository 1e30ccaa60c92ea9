"""Interpolators in the feature pyramids of torchvision, detectron2 and afictl."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeGuard, cast

from torch import nn

from afictl.errors import UserError
from afictl.integrations.sites import UpsamplingSite, neck_site
from afictl.integrations.sources import Interpolators
from afictl.integrations.substitution import Replacement
from afictl.integrations.torchvision_pyramids import torchvision_sites
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.interpolators.per_step import with_steps
from afictl.necks import Neck, preset_with
from afictl.presets import Preset


class Detector(Protocol):
    """A detector of afictl."""

    preset: Preset
    neck: Neck
    head: object


def is_detector(module: object) -> TypeGuard[Detector]:
    """Whether a module is a detector of afictl."""
    # Recognised by its parts, since afictl.detectors imports this package.
    return all(hasattr(module, name) for name in ("preset", "neck", "head"))


def pyramid_sites(model: nn.Module) -> Iterator[UpsamplingSite]:
    """Every feature pyramid in ``model``.

    Raises:
        UserError: a pyramid of a derived class, which may compute otherwise, or with a step that is not twofold.
    """
    for module in model.modules():
        # The neck of an adapted detector is a view, no module; its pyramid is yielded below.
        if is_detector(module) and isinstance(module.neck, nn.Module):
            yield neck_site(module.neck)
    yield from torchvision_sites(model)
    # Only a process that has loaded this module can have a model of detectron2.
    if "detectron2.modeling.backbone.fpn" in sys.modules:
        from afictl.integrations.detectron2_pyramids import detectron2_sites

        yield from detectron2_sites(model)


def pyramid_replacements(
    sites: Sequence[UpsamplingSite], source: Interpolators, per_step: bool | None, described: bool
) -> list[Replacement]:
    """The changes that put interpolators into pyramids.

    Args:
        source: where they come from.
        per_step: whether each enlargement has a module of its own; None as in each present pyramid.
        described: whether a preset has to name the interpolators.

    Raises:
        UserError: an interpolator of another width or number of steps, or one that a preset cannot name.
    """
    modules: list[nn.Module] = []
    for site in sites:
        module = source.for_pyramid(site.channels, type(site.pyramid).__name__)
        has_steps = _has_steps(site, module) if per_step is None else per_step
        if described or has_steps:
            _require_description(module)
        modules.append(with_steps(cast(Interpolator, module), has_steps, site.num_upsamplers))
    return [
        Replacement(site.pyramid, site.new_class, {"interpolator": module.to(site.weight).train(site.pyramid.training)})
        for site, module in zip(sites, modules, strict=True)
    ]


def preset_replacements(model: nn.Module) -> list[Replacement]:
    """The changes after which the preset of each detector of afictl names its present interpolator."""
    detectors = [module for module in model.modules() if is_detector(module)]
    return [
        Replacement(detector, type(detector), {"preset": preset_with(detector.preset, detector.neck.interpolator)})
        for detector in detectors
    ]


def _require_description(interpolator: nn.Module) -> None:
    missing = [name for name in ("kind", "channels", "options") if not hasattr(interpolator, name)]
    if missing:
        raise UserError(f"{type(interpolator).__name__} has no {', no '.join(missing)}: a preset cannot name it")


def _has_steps(site: UpsamplingSite, interpolator: nn.Module) -> bool:
    """Whether each enlargement has a module of its own, in the present pyramid or in ``interpolator``."""
    return any(isinstance(part, PerStepInterpolator) for part in (interpolator, *site.pyramid.children()))
