"""Where the memory or the folder is full through which reading processes hand over their samples.

Tensors travel as shared memory, whose descriptor goes through a socket in the temporary folder. Where either is full,
the queue of a process drops the samples with a traceback, and whoever waits for them waits for ever.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue
from typing import Any

from afictl.errors import UserError, is_disk_full, one_line

_ADVICE = "free some space there, or read without further processes: --set loader.workers=0"


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
