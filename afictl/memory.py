"""Modules that would not fit into the memory of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from afictl.errors import UserError, describe_out_of_memory
from afictl.machine import machine_memory
from afictl.meta_device import MAX_PARAMETERS

_TRAINING_COPIES = 3
"""Weights, gradients and momentum; with AdamW one more."""
_UNCHECKED_BYTES = 1.5e9
_UNCHECKED_PARAMETERS = 4_000
"""More than the weights of the largest detector of the shipped presets, and than its number of tensors."""

T = TypeVar("T")


def build_within_memory(name: str, build: Callable[[], T]) -> T:
    """Call ``build``, which makes modules, unless their weights take more than a third of the machine's memory.

    Weights on the meta device take none. A build of large weights is stopped early, counted on the meta device, and
    repeated with the same random numbers if they fit.

    Args:
        name: what is built, for the error.
        build: function without arguments that can be called again.

    Raises:
        UserError: the weights are too large, or too many.
    """
    generator = torch.get_rng_state()
    try:
        with _limited_weights(name, _UNCHECKED_BYTES, _UNCHECKED_PARAMETERS):
            return build()
    except _LargeWeightsError as error:
        if error.name != name:  # of the module that contains this one
            raise
    memory = machine_memory()
    try:
        with torch.device("meta"), _limited_weights(name, memory / _TRAINING_COPIES, MAX_PARAMETERS, meta=True):
            build()
    except _LargeWeightsError as error:
        if error.name != name:
            raise
        if not error.size:
            raise UserError(f"{name}: more than {MAX_PARAMETERS:,} tensors of weights; reduce its layers") from None
        raise UserError(
            f"{name}: its weights take more than {error.size / 1e9:.1f} GB of this machine's {memory / 1e9:.1f} GB of"
            f" memory, and training needs {_TRAINING_COPIES} times as much; reduce the widths (neck.channels,"
            " detector.fc_width, backbone.options), see 'afictl model show'"
        ) from None
    torch.set_rng_state(generator)
    return build()


class _LargeWeightsError(MemoryError):
    """Weights of ``name`` of more than ``size`` bytes, or with 0 of too many tensors."""

    def __init__(self, name: str, size: float = 0) -> None:
        super().__init__(name, size)
        self.name = name
        self.size = size


@contextmanager
def _limited_weights(name: str, size: float, number: int, meta: bool = False) -> Iterator[None]:
    """Stop when more than ``number`` parameters are registered, or ``size`` bytes, before their memory is written.

    Bytes are those on the meta device if ``meta``, else on all others.
    """
    total = count = 0

    def add(module: nn.Module, key: str, parameter: Tensor | None) -> None:
        nonlocal total, count
        if parameter is None:
            return
        total, count = total + parameter.nbytes * (parameter.is_meta == meta), count + 1
        if total > size:
            raise _LargeWeightsError(name, size)
        if count > number:
            raise _LargeWeightsError(name)

    hook = register_module_parameter_registration_hook(add)
    try:
        yield
    except RuntimeError as error:
        if describe_out_of_memory(error)[0]:  # one parameter is larger than the memory
            raise _LargeWeightsError(name, size) from None
        raise
    finally:
        hook.remove()
