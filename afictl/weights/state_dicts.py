"""The state dict in the content of a checkpoint: the keys under which projects store it, and averaged weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeGuard

from afictl.errors import UserError, describe_type
from afictl.weights.bounded import RefusedError, printable
from afictl.weights.pickled_arrays import PickledArray
from afictl.weights.stand_ins import StandIn, as_mapping
from afictl.weights.stored_tensors import StoredTensor

Weights: TypeAlias = dict[str, StoredTensor | PickledArray]
_MODEL_KEYS = (
    *("model", "state_dict", "model_state_dict", "model_state", "net", "net_state_dict", "network", "detector"),
    *("module", "weights", "params", "shadow", "blobs"),
)
_AVERAGES_BY_DEFAULT = {
    "state_dict_ema": "timm",
    "model_ema": "timm and torchvision",
    "ema": "YOLOv5, Ultralytics and RT-DETR",
}
"""Keys of averaged weights that a library loads instead of the trained ones, and these libraries."""
_AVERAGES_BESIDE = ("ema_state_dict", "model_state_dict_ema", "ema_model_state_dict", "ema_model", "ema_state")
"""Keys of averaged weights beside the trained ones, which libraries such as detectron2's descendants load."""
_TRAINED_BESIDE = {"current_model_state": "Lightning", "ema_state_dict": "MMEngine"}
"""Keys of the trained weights where a library stores the averaged ones as its state dict."""
_MMENGINE_KEYS = ("message_hub", "param_schedulers")
_BUFFER_PREFIX = "ema_"
_MOMENTUM = "_momentum"  # optimizer state among the blobs of Caffe2
_MAX_DEPTH = 4
_LISTED_KEYS = 5


class StateDict(NamedTuple):
    """The chosen tensors of a checkpoint."""

    tensors: Weights
    notes: tuple[str, ...]
    """Choice between averaged and trained weights."""


class _Source(NamedTuple):
    """Tensors in the content of a file, and the key under which they are; empty for the top level."""

    key: str
    tensors: Weights


def find_state_dict(content: object, file: Path, averaged: bool | None = None) -> StateDict:
    """The tensors of a nested or top-level state dict.

    Args:
        content: of the file, with ``StandIn`` for unknown objects.
        file: for messages.
        averaged: take the averaged (EMA) or the trained weights; None: those that the library of the file loads.

    Raises:
        UserError: there are no such tensors, or several networks.
        RefusedError: a tensor of an unsupported type among them.
    """
    if _is_module(content):
        raise _whole_module(content, file)
    mapping = _items(content)
    if mapping is None:
        kind = "a tensor" if isinstance(content, StoredTensor | PickledArray) else describe_type(content)
        kind = content.name if isinstance(content, StandIn) else kind
        raise UserError(f"{file}: not a checkpoint: contains {kind}, not a state_dict; save the model's state_dict()")
    average, trained, library = _averaged_and_trained(mapping)
    if average is None and trained is None:
        trained = _only_network(mapping, file)
    if average is None and trained is not None:
        average, trained = _without_average_buffers(trained)
        library = "MMCV"
    chosen = _choose(average, trained, averaged, library, file)
    _require_readable(mapping, chosen.tensors)
    return chosen


def _choose(
    average: _Source | None, trained: _Source | None, averaged: bool | None, library: str, file: Path
) -> StateDict:
    source = f", which {library} loads" if averaged is None and library and average and trained else ""
    if averaged is None:
        averaged = trained is None or bool(library and average)
    chosen, other = (average, trained) if averaged else (trained, average)
    if chosen is None:
        kind, flag = ("averaged", "--ema") if averaged else ("other than averaged", "--no-ema")
        raise UserError(f"{file}: contains no {kind} weights; leave {flag} out")
    if average is None:
        return StateDict(chosen.tensors, ())
    kind = "averaged" if averaged else "trained"
    flag, rest = ("--no-ema", "trained") if averaged else ("--ema", "averaged")
    advice = f"; {flag} takes the {rest} ones"
    where = f" (under {chosen.key})" if chosen.key else ""
    return StateDict(chosen.tensors, (f"{kind} weights{where}{source}{advice if other else ''}",))


def _averaged_and_trained(mapping: Mapping[object, object]) -> tuple[_Source | None, _Source | None, str]:
    """Both kinds of weights, and the library that loads the averaged ones by default."""
    for key, library in _TRAINED_BESIDE.items():
        if key in mapping and (library != "MMEngine" or any(name in mapping for name in _MMENGINE_KEYS)):
            return _find(mapping), _under(mapping, key), library
    trained = _find(mapping)
    for key, library in _AVERAGES_BY_DEFAULT.items():
        if average := _under(mapping, key):
            return average, trained, library
    averages = (_under(mapping, key) for key in _AVERAGES_BESIDE)
    return next(filter(None, averages), None), trained, ""


def _without_average_buffers(trained: _Source) -> tuple[_Source | None, _Source]:
    """Averaged and trained weights of MMCV's hook.

    It exchanges them: the average has the names of the model, the trained weights are buffers named after them.
    """
    tensors = trained.tensors
    buffers = {name: f"{_BUFFER_PREFIX}{name.replace('.', '_')}" for name in tensors if "." in name}
    buffers = {name: buffer for name, buffer in buffers.items() if buffer in tensors}
    if not buffers:
        return None, trained
    unused = set(buffers.values())
    average = {name: value for name, value in tensors.items() if name not in unused}
    exchanged = {name: tensors[buffers[name]] if name in buffers else value for name, value in average.items()}
    return _Source(trained.key, average), _Source(f"the buffers {_BUFFER_PREFIX}*", exchanged)


def _items(value: object) -> Mapping[object, object] | None:
    if isinstance(value, StandIn):
        return value.items or None
    return value if isinstance(value, dict) else None


def _under(mapping: Mapping[object, object], key: str) -> _Source | None:
    nested = _items(mapping.get(key))
    source = _find(nested) if nested else None
    return _Source(f"{key}.{source.key}".rstrip("."), source.tensors) if source else None


def _find(mapping: Mapping[object, object], depth: int = _MAX_DEPTH) -> _Source | None:
    """The tensors under the first key of a model, at any depth, else those of the mapping itself."""
    for key in _MODEL_KEYS if depth else ():
        nested = _items(mapping.get(key))
        source = _find(nested, depth - 1) if nested else None
        if source:
            return _Source(f"{key}.{source.key}".rstrip("."), source.tensors)
    tensors = _weights_of(mapping)
    if depth == _MAX_DEPTH and not any("." in name for name in tensors) and len(tensors) < len(mapping):
        tensors = {} if any(_has_network(value) for value in mapping.values()) else tensors  # such as a loss
    return _Source("", tensors) if tensors else None


def _weights_of(mapping: Mapping[object, object]) -> Weights:
    return {
        name: value
        for name, value in mapping.items()
        if isinstance(name, str) and not name.endswith(_MOMENTUM) and _is_weight(value)
    }


def _is_weight(value: object) -> TypeGuard[StoredTensor | PickledArray]:
    return isinstance(value, StoredTensor) or (isinstance(value, PickledArray) and not value.other_type)


def _has_network(value: object) -> bool:
    """Whether a value is a mapping with tensors of submodules."""
    mapping = _items(value)
    return mapping is not None and any("." in name for name in _weights_of(mapping))


def _is_module(value: object) -> TypeGuard[StandIn]:
    return isinstance(value, StandIn) and not {"_modules", "_parameters"}.isdisjoint(as_mapping(value))


def _whole_module(module: StandIn, file: Path, key: object = "") -> UserError:
    """The error of a file of ``torch.save(model)``, whose weights are attributes of objects of the model's code."""
    where = f" under {printable(key)}" if key else ""
    return UserError(
        f"{file}: contains a whole model, {module.name},{where} whose code is not run here; where that code is"
        " installed, save its weights alone: torch.save(model.state_dict(), FILE)"
    )


def _only_network(mapping: Mapping[object, object], file: Path) -> _Source:
    """The tensors of the only mapping with tensors of submodules, whatever its key."""
    networks = [key for key, value in mapping.items() if _has_network(value)]
    if len(networks) == 1:
        return _Source(printable(networks[0]), _weights_of(_items(mapping[networks[0]]) or {}))
    if networks:
        names = ", ".join(printable(key) for key in networks[:_LISTED_KEYS])
        raise UserError(f"{file}: contains several networks, under {names}; save the state_dict of one alone")
    for key, value in mapping.items():
        if _is_module(value):
            raise _whole_module(value, file, key)
    if unreadable := _unreadable(mapping):
        raise RefusedError(unreadable)
    objects = [(key, value.name) for key, value in mapping.items() if isinstance(value, StandIn)]
    objects.sort(key=lambda item: item[0] not in _MODEL_KEYS)
    reason = f"; its {printable(objects[0][0])} is {objects[0][1]}, not a state_dict" if objects else ""
    keys = " or ".join(_MODEL_KEYS[:5])
    raise UserError(
        f"{file}: contains no named tensors{reason}; expected a state_dict at the top level or under {keys}"
    )


def _require_readable(content: Mapping[object, object], tensors: Weights) -> None:
    """Refuse a state dict with tensors of an unsupported type: without them the network would be another."""
    holders = [content, *filter(None, (_items(value) for value in content.values()))]
    for holder in holders:
        if any(holder.get(name) is value for name, value in tensors.items()) and (problem := _unreadable(holder)):
            raise RefusedError(problem)


def _unreadable(mapping: Mapping[object, object]) -> str:
    """The first value that is a tensor of an unsupported type; empty if there is none."""
    for key, value in mapping.items():
        name = value.other_type if isinstance(value, PickledArray) else getattr(value, "name", "")
        if isinstance(value, (StandIn, PickledArray)) and name.startswith(("torch.", "numpy.")):
            return f"its {printable(key)} is of the type {name}"
    return ""
