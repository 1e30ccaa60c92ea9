"""Train and print a table of the evidence: ``python -m benchmarks.evidence SETTING TABLE``.

It runs ``afictl``: ``data shapes`` where the data are generated, ``finetune`` for the guide, ``pretrain`` for the
pre-trained methods and ``compare`` for the table, and prints each command. All tables of a setting share their runs.
The same call continues what was interrupted, and adds seeds.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from afictl.errors import UserError
from benchmarks.evidence.commands import Paths, table_commands
from benchmarks.evidence.methods import TABLES
from benchmarks.evidence.settings import SETTINGS
from benchmarks.results import run_benchmark

_AFICTL = (sys.executable, "-m", "afictl")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing in the output folder, and print and write the table."""
    options = _parse(arguments)
    paths = Paths(options.output, options.data, options.backbone_weights)
    methods = options.interpolators.split(",") if options.interpolators else TABLES[options.table]
    for command in table_commands(SETTINGS[options.setting], methods, options.seeds, paths):
        print(f"+ afictl {shlex.join(command)}", flush=True)
        if not options.dry_run and (code := _run(command)):
            raise UserError(f"afictl {command[0]} ended with exit code {code}")


def _run(command: Sequence[str]) -> int:
    """Run ``afictl`` and return its exit code; at Ctrl-C, which it receives too, it has time to save its state."""
    with subprocess.Popen([*_AFICTL, *command]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset with train and val; not for 'shapes'")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help="ImageNet weights of the backbone")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), metavar="DIR")
    parser.add_argument("--interpolators", metavar="NAMES", help="fewer methods of the table")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
