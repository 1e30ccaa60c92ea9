"""timm's description of an architecture: its class, its feature maps, and the tensor names of its classifier."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

import timm
import torch
from torch import Tensor, nn

from afictl.errors import UserError, describe_out_of_memory, one_line

_PREFIXES = ("model.", "body.")
"""Prefixes of the names of a classifier's tensors in some of timm's feature extractors."""

_NAME_OF_STEM = re.compile(r"stem|embed|^(body_)?(conv|bn)\d\.")
_FINEST_STRIDE = 4

TensorFilter = Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """A network of timm as a classifier."""

    name: str
    classifier: nn.Module
    """On the meta device, with timm's default options."""

    @property
    def model(self) -> type[nn.Module]:
        """timm's class of the network."""
        return type(self.classifier)

    @property
    def features(self) -> list[dict[str, Any]]:
        """timm's description of each feature map, finest first: ``num_chs``, ``reduction`` (its stride), ``module``."""
        return list(getattr(self.classifier, "feature_info", ()))

    def map_index(self, stride: int) -> int | None:
        """Index of the last map of that stride; None without one."""
        indices = [index for index, feature in enumerate(self.features) if feature["reduction"] == stride]
        return indices[-1] if indices else None

    def stem_in(self, net: nn.Module) -> set[str]:
        """Names of the parameters of a feature extractor up to its last map finer than stride 4, or before its first.

        As timm's feature extractors do, it takes modules in the order of their registration for that of computation.
        """
        order = {_canonical(name): i for i, (name, _) in enumerate(net.named_modules())}
        finer = [feature["module"] for feature in self.features if feature["reduction"] < _FINEST_STRIDE]
        boundary = finer[-1] if finer else self.features[self.map_index(_FINEST_STRIDE) or 0]["module"]
        inside = [i for name, i in order.items() if f"{name}_".startswith(f"{_canonical(boundary)}_")]
        end = len(order) if not inside else inside[-1] + 1 if finer else inside[0]
        names = [key for key, _ in net.named_parameters()]
        if not inside:  # the description has another name for the module
            return {key for key in names if _NAME_OF_STEM.search(key)}
        return {key for key in names if order[_canonical(key.rpartition(".")[0])] < end}

    def has_option(self, option: str) -> bool:
        """Whether timm's class has an argument of that name."""
        return option in signature(self.model).parameters

    def has_checkpointing(self) -> bool:
        """Whether timm can recompute the activations of the network in the backward pass."""
        try:
            self.classifier.set_grad_checkpointing(True)  # type: ignore[operator]
        except (AssertionError, AttributeError, NotImplementedError):
            return False
        self.classifier.set_grad_checkpointing(False)  # type: ignore[operator]
        return True

    def names_in(self, names: Collection[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a classifier, in any layout that timm reads, under ``names``, those of its feature extractor.

        The classifier's own layers are left out; tensors that no such classifier has keep their names.
        """
        renamed = self._rename(names, tensors)
        convert = self._filter()
        if convert is None or all(name in renamed for name in names if not name.endswith("num_batches_tracked")):
            return renamed
        try:
            converted = self._rename(names, convert(dict(tensors), self.classifier))
        except Exception:  # tensors of another network, on which timm's function may fail anywhere
            return renamed
        return max(renamed, converted, key=lambda candidate: len(candidate.keys() & set(names)))

    def _rename(self, names: Collection[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        extractor_names = {_canonical(name): name for name in names}
        classifier_names = {_canonical(name) for name in self.classifier.state_dict()}
        renamed: dict[str, Tensor] = {}
        for name, value in tensors.items():
            key = _canonical(name)
            if key in extractor_names:
                renamed[extractor_names[key]] = value
            elif key not in classifier_names:
                renamed[name] = value
        return renamed

    def _filter(self) -> TensorFilter | None:
        """timm's function that converts the original project's tensors of the network, by the name it has in timm."""
        return getattr(sys.modules[timm.models.model_entrypoint(self.name).__module__], "checkpoint_filter_fn", None)


@lru_cache(maxsize=16)
def find_architecture(name: str) -> Architecture:
    """The architecture of that name, without a tag.

    Raises:
        UserError: timm cannot build it.
    """
    try:
        with torch.device("meta"):
            return Architecture(name, timm.create_model(name, pretrained=False))
    except Exception as error:
        if describe_out_of_memory(error)[0]:
            raise
        raise UserError(f"backbone.name: timm cannot build {name} ({one_line(error):.200})") from None


def _canonical(name: str) -> str:
    """The same text for a tensor's name in a classifier and in each of timm's feature extractors of it."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".", "_")
