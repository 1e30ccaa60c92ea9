"""Peak memory and time of a computation on any device."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def synchronized_time(device: torch.device) -> float:
    """Seconds of a monotonic clock, after all queued work of ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak memory of ``run`` beyond what is allocated before it; its result counts.

    On CUDA the peak of PyTorch's allocator, workspaces of libraries included, each tensor rounded up to 512 bytes;
    ``run`` is called twice. Elsewhere the exact size of all tensors: see ``LiveMemory`` for what that leaves out.
    """
    if device.type != "cuda":
        with LiveMemory() as memory:
            run()
        return memory.peak
    run()  # allocates the lasting workspaces of libraries, which belong to no single computation
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


class LiveMemory(TorchDispatchMode):
    """Context that adds up the memory of all tensors created inside it until they are freed.

    ``live`` is the present sum, ``peak`` its maximum, both in bytes and the same on every machine. Memory that an
    operation allocates and frees internally is left out. On CPUs that is the copy of input, output and weights that a
    convolution makes in the layout of oneDNN, for a moment as much again, and the columns of a transposed convolution,
    which take more: the ``transposed-conv`` interpolator was observed to allocate 234 MB where 87 MB are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._addresses: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        """Run ``func`` and add the storages that it created."""
        inputs = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata not in inputs | self._addresses:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._addresses.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, address: int, num_bytes: int) -> None:
        self._addresses.discard(address)
        self.live -= num_bytes


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
