"""Memory of the machine, and modules that would not fit into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from afictl.errors import UserError, describe_out_of_memory
from afictl.meta_device import MAX_PARAMETERS

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_TRAINING_COPIES = 3
"""Weights, gradients and momentum; with AdamW one more."""
_UNCHECKED_BYTES = 1.5e9
_UNCHECKED_PARAMETERS = 4_000
"""More than the weights of the largest detector of the shipped presets, and than its number of tensors."""

T = TypeVar("T")


def machine_memory() -> float:
    """Bytes of memory that this machine, or its container, has; infinite where it is not known."""
    sizes = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _CGROUP_LIMITS:
        with suppress(ValueError, OSError):  # "max" for none
            sizes.append(int(Path(file).read_text()))
    return min(size for size in sizes if size > 0)


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
        with _limited_weights(_UNCHECKED_BYTES, _UNCHECKED_PARAMETERS):
            return build()
    except _LargeWeightsError:
        pass
    memory = machine_memory()
    try:
        with torch.device("meta"), _limited_weights(memory / _TRAINING_COPIES, MAX_PARAMETERS, True):
            build()
    except _LargeWeightsError as error:
        if error.is_number:
            raise UserError(f"{name}: more than {MAX_PARAMETERS:,} tensors of weights; reduce its layers") from None
        raise UserError(
            f"{name}: its weights take more than {error.limit / 1e9:.1f} GB of this machine's {memory / 1e9:.1f} GB of"
            f" memory, and training needs {_TRAINING_COPIES} times as much; reduce the widths (neck.channels,"
            " detector.fc_width, backbone.options), see 'afictl model show'"
        ) from None
    torch.set_rng_state(generator)
    return build()


class _LargeWeightsError(MemoryError):
    """Weights of more than ``limit`` bytes, or tensors if it ``is_number``."""

    def __init__(self, limit: float, is_number: bool = False) -> None:
        super().__init__(limit)
        self.limit = limit
        self.is_number = is_number


@contextmanager
def _limited_weights(limit: float, most: int, on_meta_device: bool = False) -> Iterator[None]:
    """Stop when more than ``limit`` bytes or ``most`` parameters are registered, before their memory is written."""
    total = number = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal total, number
        if parameter is not None and parameter.is_meta == on_meta_device:
            total, number = total + parameter.nbytes, number + 1
            if total > limit:
                raise _LargeWeightsError(limit)
            if number > most:
                raise _LargeWeightsError(most, is_number=True)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:
        if describe_out_of_memory(error)[0]:  # one parameter is larger than the memory
            raise _LargeWeightsError(limit) from None
        raise
    finally:
        hook.remove()
