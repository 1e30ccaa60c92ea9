"""How much memory a computation holds at most, on any device."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Most memory that ``run`` holds at once beyond what is there before it; its answer counts.

    On CUDA what PyTorch's allocator gave out, scratch memory of libraries included, rounded up to 512 bytes a tensor;
    ``run`` is then called twice.
    Elsewhere the tensors, exactly: see ``LiveMemory`` for what that leaves out.
    """
    if device.type != "cuda":
        with LiveMemory() as memory:
            run()
        return memory.peak
    run()  # the workspaces that libraries keep from their first call on would count for whoever is measured first
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


class LiveMemory(TorchDispatchMode):
    """Context that adds up the memory of the tensors that operations make inside it, until it is freed.

    ``live`` is what there is now, ``peak`` the most that there ever was, both in bytes. The same on every machine.
    Not seen is what an operation allocates and frees within itself. On CPUs that is the convolutions' copy of their
    input, output and weights in a layout of the library (oneDNN), as much again for a moment, and a transposed
    convolution's columns, which take more: the ``transposed-conv`` interpolator was seen to hold 234 MB where 87 MB
    are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and count what it made; memory that it was given was there before."""
        given = {storage._cdata for storage in _storages((args, kwargs))}
        answer = func(*args, **(kwargs or {}))
        for storage in _storages(answer):
            if storage._cdata not in given | self._seen:
                self._add(storage)
        return answer

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._seen.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, address: int, count: int) -> None:
        self._seen.discard(address)
        self.live -= count


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def synchronized_time(device: torch.device) -> float:
    """Seconds, once all work given to ``device`` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
