"""Worker process that trains one run: ``python -m afictl.comparison.experiment.worker``.

It reads one line of JSON, a ``RunTask``, from standard input; closing the stream interrupts the training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from afictl.comparison.experiment.comparison_run import describe_failure, train_run
from afictl.comparison.experiment.run_process import EXIT_INTERRUPTED, EXIT_LOG_UNWRITABLE, RunTask
from afictl.comparison.experiment.specification import RunSpecification
from afictl.presets import parse_preset
from afictl.progress import replace_unencodable_output
from afictl.training import InitialWeights, launch_single
from afictl.training.run_inputs import RecordedInputs


def main() -> int:
    """Train the run on standard input and return the exit code."""
    replace_unencodable_output()
    task: RunTask = json.loads(_read_line())
    sys.argv = task["command"]
    threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()
    weights, backbone_weights = (Path(path) if path else None for path in (task["weights"], task["backbone_weights"]))
    initial_weights = InitialWeights(task["interpolator"], weights, backbone_weights, averaged=task["averaged"])
    inputs = RecordedInputs(Path(task["settings"]), tuple(task["classes"]), task["contents"])
    run = RunSpecification(task["name"], task["seed"], Path(task["folder"]), initial_weights, inputs)
    try:
        fabric = launch_single(task["precision"])
        train_run(fabric, parse_preset(task["preset"], source=task["name"]), Path(task["data"]), run, task["waits"])
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        with suppress(OSError):
            print(f"error: {describe_failure(error, run.folder)}", file=sys.stderr, flush=True)
            return 1
        return EXIT_LOG_UNWRITABLE
    return 0


def _read_line() -> bytes:
    """The first line of standard input, read without Python's buffer, whose lock loader processes would inherit."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or b"\n"
    return line


def _interrupt_at_end_of_input() -> None:
    """Wait for the end of standard input, then send SIGTERM, after which the training saves its state and ends."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
