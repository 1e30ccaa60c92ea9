"""Peak memory of a computation on any device, and scatter of its times."""

from __future__ import annotations

import statistics
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def time_scatter(seconds: Sequence[float], num_inputs: int = 1) -> float:
    """Interquartile range of repeated times, each divided by the median of its input; 0 for a single repetition.

    Args:
        seconds: times of equal rounds over the same inputs.
        num_inputs: inputs of a round.
    """
    repetitions = [seconds[k::num_inputs] for k in range(num_inputs)]
    if len(repetitions[0]) < 2:
        return 0.0
    ratios = [value / statistics.median(times) for times in repetitions for value in times]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return high - low


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak memory of ``run``, including its result, beyond the memory allocated before.

    On CUDA it is the peak of PyTorch's allocator, with library workspaces and tensors rounded up to 512 bytes, of the
    second of two calls. On other devices it is the exact size of all tensors; see ``LiveMemory`` for its limits.
    """
    if device.type != "cuda":
        with LiveMemory() as memory:
            run()
        return memory.peak
    run()  # allocates the persistent workspaces of libraries, which belong to no single computation
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


class LiveMemory(TorchDispatchMode):
    """Context that sums the memory of all live tensors created inside it.

    ``live`` is the present sum and ``peak`` its maximum, both in bytes and equal on every machine. Memory that an
    operation allocates and frees internally is not counted. On CPUs this is the copy of input, output and weights that
    a convolution makes in the layout of oneDNN, and the larger columns of a transposed convolution: the
    ``transposed-conv`` interpolator was observed to allocate 234 MB, of which 87 MB are counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._addresses: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run ``func`` and count the storages that it creates."""
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
