"""Values of pickles: literals, keys of mappings, containers and bytes, and the functions that build them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from afictl.errors import describe_type
from afictl.weights.bounded import RefusedError, printable
from afictl.weights.stand_ins import StandIn

_KEY_TYPES = (str, bytes, int, float, type(None), bool, StandIn)  # stand-ins are hashed by identity
_MAX_KEY_LENGTH = 4096
_MAX_KEY_PARTS = 8
_MAX_INT_BITS = 128


@dataclass(frozen=True)
class Call:
    """An allowed callable of a pickle, replaced by ``function``."""

    function: Callable[..., object]


def literal(value: object) -> object:
    """A literal of bounded size; a bytearray as bytes."""
    if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
        raise RefusedError(f"contains an integer of {value.bit_length()} bits")
    return bytes(value) if isinstance(value, bytearray) else value


def to_key(value: object) -> object:
    """Validate a key: only short plain values, as hashing a nested or long key can take unbounded time."""
    if type(value) is tuple and len(value) <= _MAX_KEY_PARTS and not any(isinstance(part, tuple) for part in value):
        return tuple(to_key(part) for part in value)
    if type(value) not in _KEY_TYPES:
        raise RefusedError(f"has {describe_type(value)} as a key")
    if isinstance(value, (str, bytes)) and len(value) > _MAX_KEY_LENGTH:
        raise RefusedError(f"has a key of {len(value)} characters")
    return value


def to_dict(items: list[object]) -> dict[object, object]:
    """A mapping of alternating keys and values."""
    return {to_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _mapping(items: dict[object, object] | Iterable[tuple[object, object]] = ()) -> dict[object, object]:
    return {to_key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}


def _default_mapping(
    _: object = None, items: dict[object, object] | Iterable[tuple[object, object]] = ()
) -> dict[object, object]:
    """A defaultdict without its factory."""
    return _mapping(items)


def to_set(items: Iterable[object] = ()) -> set[object]:
    """A set of validated items."""
    return {to_key(item) for item in items}


def _encode(text: object, codec: object) -> bytes:
    """The form of bytes in pickle protocol 2."""
    if codec not in ("latin1", "latin-1") or not isinstance(text, str):
        raise RefusedError(f"encodes text with {printable(codec)}")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """The form of empty bytes in pickle protocol 2."""
    return b""


PLAIN: dict[str, object] = {
    "_codecs encode": Call(_encode),
    "collections OrderedDict": Call(_mapping),
    "collections Counter": Call(_mapping),
    "collections defaultdict": Call(_default_mapping),
    "builtins set": Call(to_set),
    "__builtin__ set": Call(to_set),
    "builtins bytes": Call(_no_bytes),
    "__builtin__ bytes": Call(_no_bytes),
}
"""Allowed globals of containers and bytes; ordered and counting mappings become dicts."""
