"""Modules built from the description in an untrusted file, on the meta device: the description may claim any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from afictl.errors import UserError, one_line

_MAX_PARAMETERS = 20_000
"""The largest real detectors have about 2,000 parameter tensors."""
_MAX_OPTION_VALUE = 2**16


@contextmanager
def building_on_meta_device(path: str | Path) -> Iterator[None]:
    """Build modules without memory (PyTorch's meta device), and stop after so many parameters that it takes seconds.

    Raises:
        UserError: more parameters than any detector has, or no module can be built from the description.
    """
    count = 0

    def count_parameter(*_: object) -> None:
        nonlocal count
        count += 1
        if count > _MAX_PARAMETERS:
            raise RuntimeError(f"more than {_MAX_PARAMETERS:,} parameters")

    hook = register_module_parameter_registration_hook(count_parameter)
    try:
        with torch.device("meta"):
            yield
    except UserError:
        raise
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{path}: the described module cannot be built ({reason:.200}); make the file again") from None
    finally:
        hook.remove()


def require_bounded_options(options: Mapping[str, object], path: str | Path) -> None:
    """Refuse options with numbers above 65,536: some are lengths of lists that are built before any module.

    Raises:
        UserError: a number above 65,536.
    """
    for name, value in options.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > _MAX_OPTION_VALUE:
                raise UserError(f"{path}: its option {name!a:.40} has a number above {_MAX_OPTION_VALUE:,}")
