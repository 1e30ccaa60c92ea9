"""Record of the enlargements that a model computes in one forward pass on a probe input."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from afictl.errors import UserError, one_line
from afictl.integrations.interpolate_calls import InterpolateCall, is_enlarged, parse_call
from afictl.integrations.recorded_steps import RecordedCall, Recording, size_text, sort_calls
from afictl.integrations.scoped_calls import InterpolatedModule, original_class
from afictl.integrations.substitution import UnreachedStep
from afictl.interpolators import Interpolator

Probe = Tensor | list[Any] | tuple[Any, ...] | Mapping[str, Any]
"""An input of a model: its one argument; a tuple of arguments; or a mapping of keyword arguments."""

_SIZE_HW = (256, 320)  # not square, so that maps pooled to 6x6 and the like are never half of another by chance


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
        self.calls: list[RecordedCall] = []
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
        self.calls.append(RecordedCall(frame.module, frame.calls, arguments))
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
            self.operators[module, f"{size_text(before)} to {size_text(after)}"] += 1
            for running in self.frames:
                running.explained = True


def _is_map(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim == 4 and value.is_floating_point()


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
            with _original_forward(model), _unchanged(model), recorder:
                _observe(model.eval(), recorder)
                model(*args, **kwargs)
        except Exception as error:
            failure = failure or error
            continue
        reached, unreached = sort_calls(recorder.calls, names, recorder.around_interpolators)
        return Recording(reached, [*unreached, *_operators(recorder, names)], recorder.inside)
    assert failure is not None
    wish = "another input as 'probe'" if probe is not None else "an input of the model as 'probe'"
    reason = f"{type(failure).__name__}: {one_line(failure):.300}"
    raise UserError(f"{type(model).__name__} does not run on the probe input ({reason}); give {wish}") from failure


def _operators(recorder: _Recorder, names: Mapping[nn.Module, str]) -> Iterator[UnreachedStep]:
    for (module, size), runs in recorder.operators.items():
        yield UnreachedStep(names[module], f"{type(module).__name__} enlarges {size} by an operator of its own", runs)


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
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Without gradients, random numbers drawn from a generator of its own; attributes and hooks are restored at exit.

    transformers installs hooks in the first run, which could not be pickled.
    """
    attributes = {module: dict(vars(module)) for module in model.modules()}
    tables = {
        module: {name: dict(value) for name, value in values.items() if isinstance(value, dict)}
        for module, values in attributes.items()
    }
    devices = {value.device for value in model.parameters() if value.device.type == "cuda"}
    try:
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module, values in attributes.items():
            vars(module).clear()
            vars(module).update(values)
            for name, items in tables[module].items():
                table = vars(module)[name]
                table.clear()
                table.update(items)


def _observe(model: nn.Module, recorder: _Recorder) -> None:
    for module in model.modules():
        module.register_forward_pre_hook(recorder.enter)
        module.register_forward_hook(recorder.leave)


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
