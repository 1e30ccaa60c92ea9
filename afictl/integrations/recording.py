"""Record of the enlargements that a model computes in one forward pass on a probe input."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from afictl.errors import UserError, one_line
from afictl.integrations.interpolate_calls import InterpolateCall, is_enlarged, is_twofold, parse_call
from afictl.integrations.scoped_calls import INTERPOLATORS, InterpolatedModule, original_class
from afictl.integrations.substitution import UnreachedStep, UpsamplingStep
from afictl.interpolators import Interpolator

Probe = Tensor | list[Any] | tuple[Any, ...] | Mapping[str, Any]
"""An input of a model: its one argument; a tuple of arguments; or a mapping of keyword arguments."""

_SIZE_HW = (256, 320)  # not square, so that maps pooled to 6x6 and the like are never half of another by chance


class RecordedStep(NamedTuple):
    """An enlargement that can be replaced."""

    step: UpsamplingStep
    module: nn.Module
    call: int
    call_mode: tuple[str, bool]
    """Mode, and whether corners are aligned."""
    like: Tensor
    """An input, with the device and type that the interpolator gets."""


class Recording(NamedTuple):
    """All enlargements of a forward pass, in its order."""

    reached: list[RecordedStep]
    unreached: list[UnreachedStep]
    inside: dict[nn.Module, set[nn.Module]]
    """Module that calls ``interpolate`` -> the modules that do so within its ``forward``."""


class _Call(NamedTuple):
    """A call of ``interpolate`` in one run of ``module``, from 0."""

    module: nn.Module
    number: int
    arguments: InterpolateCall


class _Frame:
    """One run of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls = 0
        self.explained = False
        """Whether an enlargement has been recorded in it."""


class _Recorder(TorchFunctionMode):
    """Records the calls of ``interpolate``, with the innermost module that runs at that moment."""

    def __init__(self, excluded: Collection[nn.Module]) -> None:
        super().__init__()
        self.frames: list[_Frame] = []
        self.calls: list[_Call] = []
        self.operators: Counter[tuple[nn.Module, str]] = Counter()
        """Enlargements without a call of ``interpolate``, by module and size."""
        self.inside: dict[nn.Module, set[nn.Module]] = {}
        self.around_interpolators: set[nn.Module] = set()
        """Modules that ran an interpolator or an excluded module, whose calls they could not tell from their own."""
        self._excluded = excluded

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = kwargs or {}
        if func is F.interpolate and self.frames and not self._interpolates():
            self._record(parse_call(*args, **keywords))
        return func(*args, **keywords)

    def _interpolates(self) -> bool:
        """Whether an excluded module or an interpolator is running."""
        return any(frame.module in self._excluded or isinstance(frame.module, Interpolator) for frame in self.frames)

    def _record(self, arguments: InterpolateCall) -> None:
        *outer, frame = self.frames
        self.calls.append(_Call(frame.module, frame.calls, arguments))
        frame.calls += 1
        if is_enlarged(arguments.maps.shape[2:], arguments.size):
            for running in self.frames:
                running.explained = True
        for running in outer:
            if running.module is not frame.module:
                self.inside.setdefault(running.module, set()).add(frame.module)

    def enter(self, module: nn.Module, inputs: object) -> None:
        """Hook before ``forward``."""
        if isinstance(module, Interpolator) or module in self._excluded:
            self.around_interpolators.update(frame.module for frame in self.frames)
        self.frames.append(_Frame(module))

    def leave(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        """Hook after ``forward``: an enlarged output without a recorded call is that of another operator."""
        frame, maps = self.frames.pop(), inputs[0] if inputs else None
        if module in self._excluded or self._interpolates() or frame.explained:
            return
        if not _is_map(maps) or not _is_map(output):
            return
        before, after = maps.shape[2:], output.shape[2:]
        # At least nearly twofold: padding enlarges, too.
        if is_enlarged(before, after) and all(
            large >= 2 * small - 1 for small, large in zip(before, after, strict=True)
        ):
            self.operators[module, f"{_size(before)} to {_size(after)}"] += 1
            for running in self.frames:
                running.explained = True


def _is_map(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


def _size(sides: Collection[int]) -> str:
    return "x".join(map(str, sides))


def record(model: nn.Module, probe: Probe | None, excluded: Collection[nn.Module]) -> Recording:
    """Run ``model`` once in eval mode and record its enlargements; its state is the same afterwards.

    Args:
        probe: the input; None tries random images of 256 x 320 pixels in the forms that torchvision, transformers and
            detectron2 take.
        excluded: modules whose enlargements are left out.

    Raises:
        UserError: ``model`` fails on the input.
    """
    names = {module: name for name, module in model.named_modules()}
    failure: Exception | None = None
    for args, kwargs in _inputs(model, probe):
        recorder = _Recorder(excluded)
        try:
            with _original_forward(model), _observed(model, recorder), _eval_mode(model), recorder:
                model(*args, **kwargs)
        except Exception as error:
            failure = failure or error
            continue
        return _sort(recorder, names)
    assert failure is not None
    wish = "another input as 'probe'" if probe is not None else "an input of the model as 'probe'"
    reason = f"{type(failure).__name__}: {one_line(failure):.300}"
    raise UserError(f"{type(model).__name__} does not run on the probe input ({reason}); give {wish}") from failure


def _inputs(model: nn.Module, probe: Probe | None) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if probe is not None:
        if isinstance(probe, Mapping):
            yield (), dict(probe)
        else:
            yield probe if isinstance(probe, tuple) else (probe,), {}
        return
    sizes = [_SIZE_HW]
    fixed = getattr(getattr(model, "config", None), "image_size", None)  # of vision transformers in transformers
    if isinstance(fixed, int):
        sizes.append((fixed, fixed))
    like = next((value for value in model.parameters() if value.is_floating_point()), torch.empty(0))
    for height, width in sizes:
        images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(like)
        yield (images,), {}
        yield ([images[0]],), {}
        yield ([{"image": images[0]}],), {}


@contextlib.contextmanager
def _original_forward(model: nn.Module) -> Iterator[None]:
    """Without the interpolators of an earlier substitution."""
    classes: dict[nn.Module, type[nn.Module]] = {
        module: type(module) for module in model.modules() if isinstance(module, InterpolatedModule)
    }
    for module in classes:
        module.__class__ = original_class(module)
    try:
        yield
    finally:
        for module, cls in classes.items():
            module.__class__ = cls


@contextlib.contextmanager
def _observed(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(recorder.enter))
        handles.append(module.register_forward_hook(recorder.leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Without gradients, random numbers drawn from a generator of its own."""
    modes = {module: module.training for module in model.modules()}
    devices = {value.device for value in model.parameters() if value.device.type == "cuda"}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _sort(recorder: _Recorder, names: Mapping[nn.Module, str]) -> Recording:
    """Sort the enlargements into those that can be replaced and those that cannot."""
    groups: dict[tuple[nn.Module, int, int], list[InterpolateCall]] = {}
    for module, number, arguments in recorder.calls:
        groups.setdefault((module, number, arguments.maps.shape[1]), []).append(arguments)
    reached: list[RecordedStep] = []
    unreached: Counter[tuple[str, str]] = Counter()
    for (module, number, channels), calls in groups.items():
        if not any(is_enlarged(call.maps.shape[2:], call.size) for call in calls):
            continue
        obstacle = next(filter(None, map(_obstacle_of_call, calls)), None) or _obstacle_of_module(module)
        if obstacle is None and module in recorder.around_interpolators:
            obstacle = f"{type(module).__name__} calls interpolate beside a pyramid or an interpolator inside it"
        if obstacle is not None:
            unreached[names[module], obstacle] += len(calls)
            continue
        call = calls[0]
        mode = f"{call.mode}, corners aligned" if call.align_corners else call.mode
        step = UpsamplingStep(names[module], number, channels, mode, len(calls))
        reached.append(RecordedStep(step, module, number, (call.mode, call.align_corners), call.maps))
    for (module, size), runs in recorder.operators.items():
        reason = f"{type(module).__name__} enlarges {size} by an operator of its own"
        unreached[names[module], reason] += runs
    return Recording(reached, [UnreachedStep(*key, runs) for key, runs in unreached.items()], recorder.inside)


def _obstacle_of_call(call: InterpolateCall) -> str | None:
    before = call.maps.shape[2:]
    if len(before) == 2 and call.maps.is_floating_point() and is_twofold(before, call.size):
        return None
    factors = {large / small for small, large in zip(before, call.size, strict=True)}
    factor = f" (x{factors.pop():g})" if len(factors) == 1 else ""
    return f"{call.mode} from {_size(before)} to {_size(call.size)}{factor} is not twofold"


def _obstacle_of_module(module: nn.Module) -> str | None:
    name = type(module).__name__
    if "forward" in vars(module):
        return f"{name} has a 'forward' of its own, beside that of its class"
    if hasattr(module, INTERPOLATORS) and not isinstance(module, InterpolatedModule):
        return f"{name} has an attribute '{INTERPOLATORS}' of its own"
    return None
