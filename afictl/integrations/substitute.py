"""Substitution of the interpolation in models of afictl and of other libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import nn

from afictl.errors import UserError
from afictl.integrations.pyramids import is_detector, preset_replacements, pyramid_replacements, pyramid_sites
from afictl.integrations.recorded_steps import RecordedStep, Recording
from afictl.integrations.recording import Probe, record
from afictl.integrations.scoped_calls import CALLS, INTERPOLATORS, CallSite, InterpolatedModule, interpolated_class
from afictl.integrations.sites import UpsamplingSite
from afictl.integrations.sources import Interpolators, InterpolatorSource
from afictl.integrations.substitution import (
    Replacement,
    Substitution,
    UnreachedStep,
    UpsamplingStep,
    without_upsampling,
)


def substitute_interpolator(
    model: nn.Module,
    interpolator: InterpolatorSource,
    *,
    per_step: bool | None = None,
    probe: Probe | None = None,
    where: Callable[[UpsamplingStep], bool] | None = None,
) -> Substitution:
    """Put interpolators in the place of the twofold enlargements of ``model``, which is changed in place.

    The feature pyramids of torchvision's and detectron2's detectors (with any heads) and of afictl's own, and of models
    that contain them, get them as a part, with the fine map at hand. A model without one is run once on a probe input,
    and each ``nn.Upsample`` and each call of ``torch.nn.functional.interpolate`` that enlarged maps twofold is replaced
    in the module that made it, and nowhere else; with ``probe`` also outside the pyramids of a model that has some.
    All other weights, their names and the losses are unchanged; with its own interpolation a model computes what it
    computed before, bit for bit. A second call replaces the interpolators of the first. Call it before the optimizer is
    made, and before the model is compiled or wrapped for several devices: they would miss the new parameters.

    Args:
        model: the model, or any module that enlarges.
        interpolator: called ``interpolator(coarse, fine)``, (N, C, h, w) -> (N, C, 2h, 2w), with ``fine`` None outside
            pyramids. An instance is used by all steps, which then have one width, and not copied: it moves to the
            device and floating-point type of the maps, and to the train or eval mode of the model. A kind such as
            ``"dysample"`` or a function from C to a module makes one for each pyramid, and outside them for each step
            and width. In an afictl detector, its ``kind`` and ``options`` also replace those in ``detector.preset``.
        per_step: True gives every enlargement a module with weights of its own: in pyramids copies, as a
            ``PerStepInterpolator``; such a module itself is used as it is. False shares one module of each width. None
            keeps what each pyramid has, which in a model of another library is a shared one at first.
        probe: an input of the model: its only argument, a tuple of arguments, or a mapping of keyword arguments. None
            tries random images of 256 x 320 pixels. Height and width should differ, lest maps of a fixed size be half
            as large as others by chance, and be such that each level is half as large as the next finer one.
        where: tells of each step whether to replace it; None replaces all.

    Returns:
        How often one forward pass of ``model`` calls the interpolators: an integer with the steps that were replaced,
        those that were not reached with the reasons, and ``undo``.

    Raises:
        UserError: arguments of other types, a model that does not run on the probe or is compiled, no step that can be
            replaced, a pyramid of a class derived from the supported ones or with a step that is not twofold, or an
            interpolator made for another number of channels or steps, or that needs the fine map where there is none.
            The last two are only named, as not reached, for steps beside pyramids. The model is then unchanged.
    """
    _check_arguments(model, interpolator)
    sites = list(pyramid_sites(model))
    names = {module: name for name, module in model.named_modules()}
    if sites and probe is None:
        recording = Recording([], list(_upsamplings_beside(sites, names)), {})
    else:
        recording = record(model, probe, {site.pyramid for site in sites})
    pyramids = [(site, _step_of_pyramid(site, names)) for site in sites if site.num_upsamplers > 0]
    recorded = recording.reached
    if not pyramids and not recorded:
        raise without_upsampling(model, recording.unreached)
    if where is not None:
        pyramids = [(site, step) for site, step in pyramids if where(step)]
        recorded = [item for item in recorded if where(item.step)]
        if not pyramids and not recorded:
            raise UserError("substitute_interpolator: 'where' leaves out every upsampling step of the model")
    described = any(map(is_detector, model.modules()))
    if described and not sites:
        per_step = _require_shared(per_step)
    source = Interpolators(interpolator, per_step)
    modules, refused = _modules_of_steps(recorded, source, type(model).__name__, tolerant=bool(sites))
    replacements = pyramid_replacements([site for site, _ in pyramids], source, per_step, described)
    replacements += _call_replacements(modules, recording.inside)
    _apply(replacements)
    of_presets = preset_replacements(model)
    _apply(of_presets)
    replaced = [step for _, step in pyramids] + [item.step for item, _ in modules]
    return Substitution(replaced, [*recording.unreached, *refused], [*replacements, *of_presets])


def _check_arguments(model: object, interpolator: object) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"substitute_interpolator: model is a torch.nn.Module, not {model!r:.80}")
    if not isinstance(interpolator, str) and not callable(interpolator):
        wish = "a torch.nn.Module, a kind or a function from channels to a module"
        raise UserError(f"substitute_interpolator: interpolator is {wish}, not {interpolator!r:.80}")
    # The import takes seconds, and only a process that has done it can have a compiled model.
    dynamo = sys.modules.get("torch._dynamo")
    for module in model.modules():
        if (dynamo and isinstance(module, dynamo.OptimizedModule)) or module._compiled_call_impl is not None:
            raise UserError(f"{type(module).__name__} is compiled already; substitute first, then compile")


def _require_shared(per_step: bool | None) -> bool:
    """``per_step`` for the calls in a detector of afictl, whose preset names one interpolator."""
    if per_step:
        raise UserError("substitute_interpolator: per_step: the steps of this detector share one interpolator")
    return False


def _step_of_pyramid(site: UpsamplingSite, names: Mapping[nn.Module, str]) -> UpsamplingStep:
    return UpsamplingStep(names[site.pyramid], None, site.channels, site.mode, site.num_upsamplers)


def _upsamplings_beside(sites: Sequence[UpsamplingSite], names: Mapping[nn.Module, str]) -> Iterator[UnreachedStep]:
    """The ``nn.Upsample`` of a model with pyramids that is not run."""
    inside = {module for site in sites for module in site.pyramid.modules()}
    for module, name in names.items():
        if isinstance(module, nn.Upsample) and not isinstance(module, InterpolatedModule) and module not in inside:
            yield UnreachedStep(name, "is beside the pyramids, which are all that is replaced without 'probe'", 0)


def _modules_of_steps(
    recorded: Sequence[RecordedStep], source: Interpolators, model: str, tolerant: bool
) -> tuple[list[tuple[RecordedStep, nn.Module]], list[UnreachedStep]]:
    """An interpolator for each recorded step, and the steps that cannot have one, if ``tolerant``."""
    modules, refused = [], []
    for item in recorded:
        try:
            modules.append((item, source.for_step(item.step.channels, item.step.path or model)))
        except UserError as error:
            if not tolerant:
                raise
            refused.append(UnreachedStep(item.step.path, str(error), item.step.runs))
    return modules, refused


def _call_replacements(
    modules: Sequence[tuple[RecordedStep, nn.Module]], inside: Mapping[nn.Module, set[nn.Module]]
) -> list[Replacement]:
    """The changes that put interpolators at the recorded calls.

    Args:
        inside: module -> modules that call ``interpolate`` within its ``forward``; those get a scope of their own, in
            which the enclosing one does not count.
    """
    by_owner: dict[nn.Module, list[tuple[RecordedStep, nn.Module]]] = {}
    for item, interpolator in modules:
        by_owner.setdefault(item.module, []).append((item, interpolator))
    for owner in list(by_owner):
        for module in inside.get(owner, ()):
            by_owner.setdefault(module, [])
    return [_owner_replacement(owner, items) for owner, items in by_owner.items()]


def _owner_replacement(owner: nn.Module, items: Sequence[tuple[RecordedStep, nn.Module]]) -> Replacement:
    """The change of one module; the interpolators of its other calls stay."""
    modes: dict[int, tuple[str, bool]] = {}
    interpolators: dict[tuple[int, int], nn.Module] = {}
    if isinstance(owner, InterpolatedModule):
        for index, site in owner.interpolate_calls.items():
            modes[index] = (site.mode, site.align_corners)
            interpolators |= {(index, width): owner.interpolators[key] for width, key in site.keys.items()}
    for item, interpolator in items:
        index, channels = item.call, item.step.channels
        modes[index] = item.call_mode
        interpolators[index, channels] = interpolator.to(item.like).train(owner.training)
    names: dict[nn.Module, str] = {}
    calls = {index: CallSite(*mode, {}) for index, mode in modes.items()}
    for (index, channels), interpolator in interpolators.items():
        # One name for a module that several calls share, so that its weights are saved once.
        calls[index].keys[channels] = names.setdefault(interpolator, f"{index}_{channels}")
    parts = nn.ModuleDict({name: interpolator for interpolator, name in names.items()}).train(owner.training)
    return Replacement(owner, interpolated_class(type(owner)), {INTERPOLATORS: parts, CALLS: calls})


def _apply(replacements: Iterable[Replacement]) -> None:
    for replacement in replacements:
        replacement.apply()
