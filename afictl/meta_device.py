"""Building of modules described by untrusted files on the meta device, as a description may claim any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from afictl.errors import UserError, one_line

MAX_PARAMETERS = 20_000
"""Of one module: ten times as many as the largest real detectors have; they are built in seconds."""
_MAX_OPTION_VALUE = 2**16


@contextmanager
def building_on_meta_device(path: str | Path) -> Iterator[None]:
    """Build modules on PyTorch's meta device, without memory, and limit the number of parameters.

    Args:
        path: file or setting that describes the module; every error names it.

    Raises:
        UserError: more than 20,000 parameters, or an invalid description.
    """
    count = 0

    def count_parameter(*_: object) -> None:
        nonlocal count
        count += 1
        if count > MAX_PARAMETERS:
            raise RuntimeError(f"more than {MAX_PARAMETERS:,} parameters")

    hook = register_module_parameter_registration_hook(count_parameter)
    try:
        with torch.device("meta"):
            yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from None
    except (RuntimeError, TypeError, ValueError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{path}: the described module cannot be built ({reason:.200}); make the file again") from None
    finally:
        hook.remove()


def require_bounded_options(options: Mapping[str, object], path: str | Path) -> None:
    """Refuse options with numbers above 65,536, as some are lengths of lists that are built before any module.

    Raises:
        UserError: a number above 65,536.
    """
    for name, value in options.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int) and number > _MAX_OPTION_VALUE:
                raise UserError(f"{path}: its option {name!a:.40} has a number above {_MAX_OPTION_VALUE:,}")
