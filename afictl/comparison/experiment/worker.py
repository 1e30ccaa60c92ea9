"""Worker process that trains one run: ``python -m afictl.comparison.experiment.worker``, specified on standard input.

The order is one line of JSON. The stream then stays open for as long as the cell is wanted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from afictl.comparison.experiment.comparison_run import EXIT_LOG_UNWRITABLE, describe_failure, train_run
from afictl.comparison.experiment.specification import RunSpecification
from afictl.presets import parse_preset
from afictl.training import HardwareSettings, InitialWeights, launch

_STOPPED = 130


def main() -> int:
    """Train the cell that standard input orders; returns the exit code."""
    order: dict[str, Any] = json.loads(_first_line())
    sys.argv = order["command"]  # which the run records
    threading.Thread(target=_leave_with_the_stream, daemon=True).start()
    weights, backbone_weights = (Path(order[name]) if order[name] else None for name in ("weights", "backbone_weights"))
    start = InitialWeights(order["interpolator"], weights, backbone_weights)
    job = RunSpecification(order["name"], order["seed"], Path(order["folder"]), start)
    try:
        fabric = launch(HardwareSettings(devices="1", precision=order["precision"]))
        train_run(fabric, parse_preset(order["preset"], source=order["name"]), Path(order["data"]), job)
    except KeyboardInterrupt:
        return _STOPPED
    except Exception as error:
        with suppress(OSError):
            print(f"error: {describe_failure(error, job.folder)}", file=sys.stderr, flush=True)
            return 1
        return EXIT_LOG_UNWRITABLE
    return 0


def _first_line() -> bytes:
    """Read without Python's buffer, whose lock must not be held by a thread while reading processes are forked."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    return line


def _leave_with_the_stream() -> None:
    """Ask the training to save and leave when whoever ordered it is gone, or closes the stream."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
