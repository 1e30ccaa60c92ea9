"""Tensor names without what wrappers of a module add: parallel execution, compilation, averaging, frameworks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor

_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_forward_module.")
"""Parts that ``torch.compile``, FSDP and Fabric insert, also into the names of submodules."""
_PREFIXES = ("module.", "model.", "net.", "network.", "detector.", "ema_model.", "ema.", "_model.")
_BACKBONE_PREFIXES = (*_PREFIXES, "backbone.", "encoder.", "bottom_up.")
_COUNTERS = frozenset({"n_averaged", "num_updates", "updates", "steps", "step", "decay"})
"""Tensors of averages of a module, beside its own."""
_MAX_PREFIXES = 6


def unwrapped_variants(tensors: Mapping[str, Tensor], *, backbone: bool = False) -> Iterator[dict[str, Tensor]]:
    """``tensors`` under their own names, then with one wrapper after the other removed.

    Args:
        tensors: of a module in any combination of wrappers.
        backbone: remove the prefixes of a backbone too.
    """
    yield dict(tensors)
    names = {_without_inserted(name): value for name, value in tensors.items() if name not in _COUNTERS}
    if names.keys() != tensors.keys():
        yield names
    for _ in range(_MAX_PREFIXES):
        prefix = _common_prefix(names, _BACKBONE_PREFIXES if backbone else _PREFIXES)
        if not prefix:
            return
        names = {name.removeprefix(prefix): value for name, value in names.items()}
        yield names


def fitting_variant(
    tensors: Mapping[str, Tensor], names: Collection[str], *, backbone: bool = False
) -> dict[str, Tensor]:
    """The variant of ``tensors`` that shares most names with a module, whose names are ``names``."""
    expected = frozenset(names)
    return max(unwrapped_variants(tensors, backbone=backbone), key=lambda variant: len(expected & variant.keys()))


def _without_inserted(name: str) -> str:
    for part in _INSERTED:
        name = name.replace(part, "")
    return name


def _common_prefix(names: Collection[str], prefixes: Collection[str]) -> str:
    """The prefix of nearly all names, as a training framework stores tensors of losses and metrics beside a model."""
    for prefix in prefixes:
        count = sum(name.startswith(prefix) for name in names)
        if names and count >= 0.9 * len(names):
            return prefix
    return ""
