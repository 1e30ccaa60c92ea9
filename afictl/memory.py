"""Memory of the machine, and modules that would not fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from afictl.errors import UserError, describe_out_of_memory

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_TRAINING_COPIES = 3
"""Weights, gradients and momentum; with AdamW one more."""


def machine_memory() -> float:
    """Bytes of memory that this machine, or its container, has; infinite where it is not known."""
    sizes = [float("inf")]
    with suppress(AttributeError, ValueError, OSError):  # not on Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for file in _CGROUP_LIMITS:
        with suppress(ValueError, OSError):  # "max" for none
            sizes.append(int(Path(file).read_text()))
    return min(size for size in sizes if size > 0)


@contextmanager
def limited_weights(name: str) -> Iterator[None]:
    """Stop the construction of modules inside whose weights take more than a third of the machine's memory.

    Weights on the meta device take none. A parameter is counted when it is registered, before its memory is written.

    Args:
        name: what is built, for the error.

    Raises:
        UserError: the weights are too large.
    """
    limit, total = machine_memory() / _TRAINING_COPIES, 0

    def count(module: nn.Module, _: str, parameter: Tensor | None) -> None:
        nonlocal total
        if parameter is not None and not parameter.is_meta:
            total += parameter.nbytes
            if total > limit:
                raise _TooLargeError(f"more than {limit / 1e9:.1f} GB")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    except _TooLargeError as error:
        raise UserError(_message(name, str(error))) from None
    except (RuntimeError, MemoryError) as error:
        if not describe_out_of_memory(error)[0]:
            raise
        raise UserError(_message(name, "more than is free")) from None
    finally:
        hook.remove()


class _TooLargeError(MemoryError):
    """Weights of more than a part of the memory."""


def _message(name: str, size: str) -> str:
    return (
        f"{name}: its weights take {size} of this machine's {machine_memory() / 1e9:.1f} GB of memory, and training"
        f" needs {_TRAINING_COPIES} times as much; reduce the widths (neck.channels, detector.fc_width,"
        " backbone.options), see 'afictl model show'"
    )
