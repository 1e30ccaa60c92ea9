"""Interpolators at the calls of ``interpolate`` of one module, whose class of another library stays as it is.

``nn.Upsample`` gets a subclass with another ``forward``. Any other module gets a subclass of its own class that
computes ``forward`` within a ``TorchFunctionMode``. A mode, which PyTorch documents, also sees calls in decorated
methods and helper functions, where a rewritten ``forward`` would fail, and is traced by ``torch.compile``; a class
rather than a ``forward`` in the instance, since copies, pickles and replicas then run on their own weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from afictl.errors import UserError
from afictl.integrations.interpolate_calls import InterpolateCall, is_twofold, parse_call

INTERPOLATORS, CALLS = "interpolators", "interpolate_calls"
"""Attributes that a module with interpolators has beside those of its own class."""


class CallSite(NamedTuple):
    """A call of ``interpolate`` that an interpolator replaces."""

    mode: str
    align_corners: bool
    keys: dict[int, str]
    """Width of the maps -> name of the interpolator in the module's ``interpolators``."""


class InterpolatedModule(nn.Module):
    """A module some of whose calls of ``interpolate`` are replaced: the attributes that this takes.

    Attributes:
        interpolators: the modules that enlarge.
        interpolate_calls: number of a call in one ``forward``, from 0 -> the replaced call. Calls of the modules inside
            it count only where these do not have a scope of their own.
    """

    interpolators: nn.ModuleDict
    interpolate_calls: Mapping[int, CallSite]


class InterpolatedUpsample(nn.Upsample, InterpolatedModule):
    """An ``nn.Upsample`` that enlarges by the interpolator for the width of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 2H, 2W)."""
        with torch._C.DisableTorchFunction():
            if 0 not in self.interpolate_calls:
                return super().forward(input)
            return _enlarge(self, 0, parse_call(input, self.size, self.scale_factor, self.mode, self.align_corners))


class _Scope(TorchFunctionMode):
    """Replacement of the calls of ``interpolate`` within one ``forward`` of ``module``."""

    def __init__(self, module: InterpolatedModule) -> None:
        super().__init__()
        self._module = module
        self._calls = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = kwargs or {}
        if func is not F.interpolate:
            return func(*args, **keywords)
        index = self._calls
        self._calls = index + 1
        # Without further dispatch, so that the scopes of enclosing modules do not count this call or those within it.
        with torch._C.DisableTorchFunction():
            if index not in self._module.interpolate_calls:
                return func(*args, **keywords)
            return _enlarge(self._module, index, parse_call(*args, **keywords))


def _enlarge(module: InterpolatedModule, index: int, call: InterpolateCall) -> Tensor:
    """The output of the interpolator at call ``index`` of ``module``, cut to the size that the call asks for.

    Raises:
        UserError: the call differs from the recorded one in mode or width, or is not twofold.
    """
    site, (channels, *size) = module.interpolate_calls[index], call.maps.shape[1:]
    if (call.mode, call.align_corners) != (site.mode, site.align_corners) or channels not in site.keys:
        widths = ", ".join(map(str, site.keys))
        raise UserError(
            f"{type(module).__name__}: call {index} of interpolate is '{call.mode}' of {channels} channels, but was "
            f"'{site.mode}' of {widths} when its interpolator was put in; substitute with a probe that runs as this"
        )
    if not is_twofold(size, call.size):
        sizes = f"{'x'.join(map(str, size))} to {'x'.join(map(str, call.size))}"
        raise UserError(f"{type(module).__name__}: an interpolator upsamples twofold, but call {index} is from {sizes}")
    height, width = call.size
    enlarged = module.interpolators[site.keys[channels]](call.maps, None)
    return enlarged if (height, width) == (2 * size[0], 2 * size[1]) else enlarged[..., :height, :width]


def interpolated_class(original: type[nn.Module]) -> type[nn.Module]:
    """The class that a module of class ``original`` gets with its interpolators; itself if it has some already."""
    if issubclass(original, InterpolatedModule):
        return original
    return InterpolatedUpsample if original is nn.Upsample else _scoped_class(original)


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that the library gave ``module``."""
    cls = type(module)
    if cls is InterpolatedUpsample:
        return nn.Upsample
    return cls.__bases__[0] if issubclass(cls, InterpolatedModule) else cls


def _scoped_class(original: type[nn.Module]) -> type[nn.Module]:
    if original not in _SCOPED_CLASSES:
        _SCOPED_CLASSES[original] = _make_scoped_class(original)
    return _SCOPED_CLASSES[original]


_SCOPED_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}
"""Class of a library -> its subclass."""


def _make_scoped_class(original: type[nn.Module]) -> type[nn.Module]:
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with _Scope(cast(InterpolatedModule, self)):
            return original.forward(self, *args, **kwargs)

    def __reduce_ex__(self: nn.Module, protocol: int) -> tuple[Any, ...]:  # noqa: N807
        # The class has no name in a module, by which pickle could find it; copy.deepcopy comes here, too.
        _, arguments, *state = cast(tuple[Any, ...], original.__reduce_ex__(self, protocol))
        return (_new_instance, (original, *arguments[1:]), *state)

    attributes = {
        "forward": functools.wraps(original.forward)(forward),
        "__reduce_ex__": __reduce_ex__,
        # Error messages and registries of libraries go by these names.
        **{name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")},
    }
    metaclass = cast(Any, type(original))
    return cast(type[nn.Module], metaclass(original.__name__, (original, InterpolatedModule), attributes))


def _new_instance(original: type[nn.Module], *arguments: object) -> nn.Module:
    cls = _scoped_class(original)
    return cls.__new__(cls, *arguments)
