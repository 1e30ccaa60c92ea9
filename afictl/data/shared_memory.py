"""Transfer of samples from loader workers: image batches in reused shared memory, and errors when there is no room.

Allocating memory costs more than filling it, and every tensor sent costs a file descriptor and a connection between the
two processes. A sample is a dict; every tensor in it is an image.

Tensors are sent as shared memory, whose descriptor passes through a socket in the temporary folder. Where either is
full, the queue of a worker drops the samples with a traceback, and the receiver blocks without end.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.queues import Queue
from typing import Any, NamedTuple

import torch
from torch import Tensor

from afictl.errors import UserError, is_disk_full, one_line

_ADVICE = "free some space there, or read without further processes: --set loader.workers=0"


class Place(NamedTuple):
    """Where an image, uint8 (3,H,W), lies among the bytes of its batch, pixel after pixel."""

    start: int
    size_hw: tuple[int, int]

    @property
    def end(self) -> int:
        """Behind its last byte."""
        return self.start + 3 * self.size_hw[0] * self.size_hw[1]

    def of(self, pixels: Tensor) -> Tensor:
        """The image, a view of the bytes of its batch."""
        return pixels[self.start : self.end].view(*self.size_hw, 3).permute(2, 0, 1)


class Packed(NamedTuple):
    """A batch whose images are ``Place`` in ``pixels``, uint8. Only one that has none of them may be kept."""

    pixels: Tensor
    samples: list[Any]

    def unpack(self) -> list[Any]:
        """The samples with their images, which are good until ``Packer`` uses their memory again."""
        return [_replace(sample, Place, lambda place: place.of(self.pixels)) for sample in self.samples]


class Packer:
    """Packs the batches of one worker into as many blocks of memory in turn as can be in use at a time."""

    def __init__(self, blocks: int) -> None:
        self._blocks = [torch.empty(0, dtype=torch.uint8)] * blocks
        self._turn = 0

    def __call__(self, samples: Sequence[Any]) -> Packed:
        """Whatever is no dict stays as it is."""
        images: list[tuple[Place, Tensor]] = []

        def place(image: Tensor) -> Place:
            images.append((Place(images[-1][0].end if images else 0, (image.shape[1], image.shape[2])), image))
            return images[-1][0]

        packed = [_replace(sample, Tensor, place) for sample in samples]
        pixels = self._next_block(images[-1][0].end if images else 0)
        for where, image in images:
            where.of(pixels).copy_(image)
        return Packed(pixels, packed)

    def _next_block(self, size: int) -> Tensor:
        self._turn = (self._turn + 1) % len(self._blocks)
        if len(self._blocks[self._turn]) < size:
            self._blocks[self._turn] = torch.empty(size, dtype=torch.uint8).share_memory_()
        return self._blocks[self._turn][:size]


def _replace(sample: Any, kind: type, change: Any) -> Any:
    if not isinstance(sample, dict):
        return sample
    return {name: change(value) if isinstance(value, kind) else value for name, value in sample.items()}


def require_room() -> None:
    """Look for room for the locks of reading processes, before a loader fails at them half-built.

    Raises:
        UserError: there is none.
    """
    try:
        multiprocessing.Lock()
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"/dev/shm: {error.strerror} for the reading processes; {_ADVICE}") from None


def send_reasons() -> None:
    """Send a mistake in the place of samples that cannot be sent; for a process that a ``DataLoader`` has started."""
    Queue._on_queue_feeder_error = _send_reason  # type: ignore[attr-defined]  # the one way to hear of it


def _send_reason(queue: Queue[Any], error: Exception, answer: Any) -> None:
    """``answer`` is the number of a batch and its samples."""
    what = one_line(error)
    reason = UserError(f"a reading process cannot send its images ({what}); {_ADVICE}")
    queue.put((answer[0], [reason]))
