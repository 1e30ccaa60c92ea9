"""Helpers of the benchmark scripts: errors and interrupts in one line, and results as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from afictl.cli.failures import INTERRUPTED
from afictl.errors import UserError
from afictl.files import write_text

ROOT = Path(__file__).parents[1]
"""Root of the checkout, in which measured processes import this package."""


def run_benchmark(main: Callable[[], None]) -> None:
    """Call ``main``; a ``UserError`` becomes one line on stderr and exit status 1, an interrupt one and 130."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # of Ctrl-C, or of a training that a signal has stopped
        print("stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


def write_results(file: Path | None, results: object) -> None:
    """Write ``results`` as JSON to ``file``, if it is not None."""
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(results, indent=2) + "\n")
