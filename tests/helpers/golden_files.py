"""Reference numbers: the weight rule they were computed with, and comparison with the files in ``golden/``.

The numbers come from the public AFI-GAN and detectron2 code, run on a CPU with weights and inputs made
by an integer hash ("rule H"), so that nothing but results needs storing. ``golden/keys/*.txt`` lists the
tensors of the reference modules in the order that the rule counts them; ``golden/*.safetensors`` holds
every n-th element of each large result. ``trim_golden.py`` made both.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-5
"""Largest allowed difference, in standard deviations of the reference tensor."""

H_FULL = {
    r"^backbone\.bottom_up\.stem\.conv1\.weight$": 1 / 64,
    r"rpn_head\.anchor_deltas\.weight$": 0.1,
    r"rpn_head\.objectness_logits\.weight$": 0.5,
    r"bbox_pred\.weight$": 0.1,
    r"cls_score\.weight$": 6.0,
}
"""Factors on top of rule H, by reference key, for whole detectors."""


@dataclass(frozen=True)
class Key:
    """A tensor of a reference module: its place in the sorted list of all keys, and its shape."""

    k: int
    shape: tuple[int, ...]
    is_float: bool


@cache
def read_keys(key_list: str) -> dict[str, Key]:
    """Reference keys of ``golden/keys/{key_list}.txt``; the line number is k."""
    keys = {}
    for k, line in enumerate((FOLDER / "keys" / f"{key_list}.txt").read_text().splitlines()):
        name, shape, *integer = line.split(" ")
        keys[name] = Key(k, tuple(int(size) for size in shape.split(",") if size != "-"), not integer)
    return keys


def hash_vector(k: int, n: int) -> np.ndarray:
    """n float64 numbers, uniform with mean 0 and variance 1, the same on every machine."""
    h = np.arange(n, dtype=np.uint32)
    h *= np.uint32(2654435761)
    h += np.uint32(k * 40503 + 12345)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    values = h / 2.0**32
    values *= 2.0
    values -= 1.0
    values *= np.sqrt(3.0)
    return values


def golden_input(*shape: int, seed: int = 0) -> Tensor:
    """The reference input of that shape, float32."""
    return torch.from_numpy(hash_vector(100003 + seed, prod(shape)).reshape(shape)).float()


def golden_image(height: int, width: int) -> Tensor:
    """The reference image, uint8 (3, height, width)."""
    c, y, x = np.ogrid[:3, :height, :width]
    noise = hash_vector(777, 3 * height * width).reshape(3, height, width) / np.sqrt(3.0)
    pixels = np.floor(128 + 80 * np.sin(0.05 * x + 0.9 * c) * np.cos(0.07 * y) + 30 * noise)
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8))


def apply_rule_h(
    module: nn.Module,
    name_map: Callable[[str], str | None],
    key_list: str,
    factors: Mapping[str, float] | None = None,
) -> None:
    """Give ``module`` the weights of a reference module.

    Args:
        module: its parameters and buffers are overwritten, scalars and integers excepted.
        name_map: name of a tensor of ``module`` -> reference key.
        key_list: name of the reference module's list in ``golden/keys``.
        factors: pattern of a reference key -> factor, such as ``H_FULL``.
    """
    keys = read_keys(key_list)
    for name, tensor in module.state_dict().items():
        if tensor.ndim == 0 or not tensor.is_floating_point():
            continue
        reference = name_map(name)
        assert reference is not None, name
        key = keys[reference]
        assert key.shape == tuple(tensor.shape), f"{name}: {tuple(tensor.shape)}, {reference}: {key.shape}"
        tensor.copy_(_reference_tensor(reference, key, factors))


def reference_tensors(key_list: str, factors: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """The float32 weights of a reference module under its own names, integers left out."""
    keys = {name: key for name, key in read_keys(key_list).items() if key.is_float}
    return {name: _reference_tensor(name, key, factors).float() for name, key in keys.items()}


def _reference_tensor(reference: str, key: Key, factors: Mapping[str, float] | None) -> Tensor:
    values = _rule_h(reference, key)
    for pattern, factor in (factors or {}).items():
        if re.search(pattern, reference):
            values = values * factor
    return torch.from_numpy(values.reshape(key.shape))


def _rule_h(reference: str, key: Key) -> np.ndarray:
    v = hash_vector(key.k, prod(key.shape))
    if len(key.shape) >= 2:
        return v / np.sqrt(prod(key.shape[1:]))
    if reference.endswith("running_mean"):
        return 0.01 * v
    if reference.endswith("running_var"):
        return 1 + 0.1 * np.abs(v)
    if reference.endswith((".weight", "scale")) or re.search(r"_w[12]$", reference):
        return 1 + 0.1 * v
    return 0.01 * v


@dataclass(frozen=True)
class Golden:
    """Every ``every``-th element of a reference tensor in C order; shape and standard deviation of the tensor."""

    values: Tensor
    every: int
    shape: tuple[int, ...]
    std: float


def read_golden(file: str, name: str) -> Golden:
    """One tensor of ``golden/{file}.safetensors``; ``golden_names`` lists them."""
    with safe_open(FOLDER / f"{file}.safetensors", framework="pt") as source:
        return Golden(source.get_tensor(name), **json.loads(source.metadata()[name]))


def golden_names(file: str, prefix: str = "") -> list[str]:
    """Names of the tensors of ``golden/{file}.safetensors`` that start with ``prefix``."""
    with safe_open(FOLDER / f"{file}.safetensors", framework="pt") as source:
        return [name for name in source.keys() if name.startswith(prefix)]  # noqa: SIM118


def assert_golden(file: str, name: str, tensor: Tensor, tolerance: float = TOLERANCE) -> None:
    """Fail unless ``tensor`` has the reference's shape and is within ``tolerance`` deviations."""
    golden = read_golden(file, name)
    assert tuple(tensor.shape) == tuple(golden.shape), f"{name}: {tuple(tensor.shape)}, not {golden.shape}"
    values = tensor.detach().flatten()[:: golden.every]
    if not golden.values.is_floating_point():
        torch.testing.assert_close(values, golden.values.to(values.dtype), rtol=0, atol=0)
        return
    worst = (values.double() - golden.values.double()).abs().max().item() / max(golden.std, 1e-12)
    assert worst <= tolerance, f"{name}: differs by {worst:.2g} standard deviations, allowed {tolerance:.2g}"
