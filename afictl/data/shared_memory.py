"""Transfer of samples from loader workers: image batches in reused shared memory, and errors when there is no room.

Allocating memory costs more than filling it, and every tensor sent costs a file descriptor and a connection between the
two processes. A sample is a dict; every tensor in it is an image.

Tensors are sent as shared memory, whose descriptor passes through a socket in the temporary folder. Where shared memory
is full, such as Docker's default of 64 MB, their bytes are sent through the pipe of the worker instead, with a note.
Where the temporary folder is full, the queue of a worker drops the samples with a traceback, and the receiver blocks
without end, unless it receives an error instead.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from afictl.errors import UserError, one_line
from afictl.machine import SHARED_MEMORY_ADVICE

_T = TypeVar("_T")
LOCKS_PER_WORKER, COMMON_LOCKS = 3, 8
"""Locks in shared memory that torch makes for the workers of a ``DataLoader``."""
_ADVICE = "free some space there, or read without further processes: --set loader.workers=0"


class ImageLocation(NamedTuple):
    """Position of an image, uint8 (3,H,W) in channels-last memory, among the bytes of its batch."""

    start: int
    size_hw: tuple[int, int]

    @property
    def end(self) -> int:
        """One past its last byte."""
        return self.start + 3 * self.size_hw[0] * self.size_hw[1]

    def view_in(self, pixels: Tensor) -> Tensor:
        """The image, a view of the bytes of its batch."""
        return pixels[self.start : self.end].view(*self.size_hw, 3).permute(2, 0, 1)


class SharedBatch(NamedTuple):
    """A batch whose images are an ``ImageLocation`` in ``pixels``, uint8."""

    pixels: Tensor
    samples: list[Any]

    def unpack(self) -> list[Any]:
        """The samples with their images, which are valid until the ``BatchPacker`` reuses their memory."""
        return [_map_values(sample, ImageLocation, lambda image: image.view_in(self.pixels)) for sample in self.samples]


class BatchPacker:
    """Collate function of one worker, which fills ``blocks`` blocks of shared memory in turn.

    ``blocks`` is the largest number of batches in use at a time.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks = [torch.empty(0, dtype=torch.uint8)] * blocks
        self._current = 0

    def __call__(self, samples: Sequence[Any]) -> SharedBatch:
        """Pack the images of all samples that are dicts; other samples are unchanged."""
        images: list[tuple[ImageLocation, Tensor]] = []

        def locate(image: Tensor) -> ImageLocation:
            start = images[-1][0].end if images else 0
            images.append((ImageLocation(start, (image.shape[1], image.shape[2])), image))
            return images[-1][0]

        packed = [_map_values(sample, Tensor, locate) for sample in samples]
        pixels = self._next_block(images[-1][0].end if images else 0)
        for location, image in images:
            location.view_in(pixels).copy_(image)
        return SharedBatch(pixels, packed)

    def _next_block(self, size: int) -> Tensor:
        self._current = (self._current + 1) % len(self._blocks)
        if len(self._blocks[self._current]) < size:
            self._blocks[self._current] = torch.empty(0, dtype=torch.uint8)  # the old one is freed first
            block = self._blocks[self._current] = torch.empty(size, dtype=torch.uint8)
            _share(block)
        return self._blocks[self._current][:size]


def _map_values(sample: Any, kind: type[_T], change: Callable[[_T], object]) -> Any:
    """The sample with ``change`` applied to the values of ``kind``, if it is a dict."""
    if not isinstance(sample, dict):
        return sample
    return {name: change(value) if isinstance(value, kind) else value for name, value in sample.items()}


def has_room_for_workers(workers: int) -> bool:
    """Whether /dev/shm has room for the locks of so many loader workers; prints a note if it has not.

    Without it a ``DataLoader`` fails half-built, as in the first evaluation of a training whose images fill it.
    """
    try:
        # those of each worker's queue, of the queue of their results and of the event of their end
        locks = [multiprocessing.Lock() for _ in range(LOCKS_PER_WORKER * workers + COMMON_LOCKS)]
    except OSError as error:  # also where there is no shared memory at all
        _note_without_workers(error.strerror or type(error).__name__)
        return False
    del locks
    return True


@cache
def _note_without_workers(reason: str) -> None:
    """Print the note, once in a process."""
    print(
        f"note: /dev/shm: {reason} for the reading processes, so that the main process reads the images, which is "
        f"slower; {SHARED_MEMORY_ADVICE}",
        file=sys.stderr,
    )


def prepare_sending() -> None:
    """In a worker of a ``DataLoader``: send samples without shared memory where that is full, and errors as such."""
    ForkingPickler.register(Tensor, _reduce)
    Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]  # the only hook for such errors


def _share(tensor: Tensor) -> bool:
    """Move a tensor to shared memory in place; False if that is full."""
    try:
        tensor.share_memory_()
    except RuntimeError as error:
        if "allocate shared memory" not in str(error):
            raise
        return False
    return True


def _reduce(tensor: Tensor) -> tuple[Any, ...]:
    """Form of a tensor in a message: its shared memory, or its bytes in the order in which they lie in memory."""
    if _share(tensor):
        return tuple(reduce_tensor(tensor))
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda k: -strides[k])
    return _rebuild, (tensor.permute(order).contiguous().numpy(), order)


def _rebuild(values: np.ndarray, order: Sequence[int]) -> Tensor:
    _note_copies()
    return torch.from_numpy(values).permute(np.argsort(order).tolist())


@cache
def _note_copies() -> None:
    """Print the note, once in a process."""
    print(
        "note: shared memory is full, so that images of the reading processes are copied, which is slower; "
        f"{SHARED_MEMORY_ADVICE}, or use fewer processes: --set loader.workers=1",
        file=sys.stderr,
    )


def _send_error(queue: Queue[Any], error: Exception, item: Any) -> None:
    """``item`` is the number of a batch and its samples."""
    fault = UserError(f"a reading process cannot send its images ({one_line(error)}); {_ADVICE}")
    queue.put((item[0], [fault]))
