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
from benchmarks.evidence.methods import PRETRAINED, PRETRAININGS, TABLES
from benchmarks.evidence.settings import SETTINGS, Setting
from benchmarks.results import run_benchmark

_AFICTL = (sys.executable, "-m", "afictl")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing in the output folder, and print and write the table."""
    options = _parse(arguments)
    setting = SETTINGS[options.setting]
    for command in commands(setting, options):
        print(f"+ afictl {shlex.join(command)}", flush=True)
        if not options.dry_run and (code := subprocess.run([*_AFICTL, *command], check=False).returncode):
            raise UserError(f"afictl {command[0]} ended with exit code {code}")


def commands(setting: Setting, options: argparse.Namespace) -> list[list[str]]:
    """Arguments of ``afictl`` in the order in which they run.

    Raises:
        UserError: the setting needs ``--data`` or ``--backbone-weights``, and it is absent.
    """
    folder: Path = options.output / setting.name
    data = folder / "data" if setting.generated else options.data
    if data is None:
        raise UserError(f"{setting.name}: give --data, a dataset in COCO layout")
    if setting.needs_backbone_weights and options.backbone_weights is None:
        raise UserError(f"{setting.name}: give --backbone-weights, the ImageNet weights of {setting.preset}")
    guide = folder / "guide"
    weights = ["--backbone-weights", str(options.backbone_weights)] if setting.needs_backbone_weights else []
    training = ["--data", str(data), "--interpolator", "nearest", "--output", str(guide), "--resume"]
    methods = options.interpolators.split(",") if options.interpolators else TABLES[options.table]
    pretrainings = dict.fromkeys(PRETRAINED[method][0] for method in methods if method in PRETRAINED)
    named = ",".join(_interpolator(method, folder) for method in methods)
    comparison = ["--data", str(data), "--weights", str(guide), "--interpolators", named, "--seeds", str(options.seeds)]
    generation = [["data", "shapes", str(data), *setting.generated]] if setting.generated and not data.exists() else []
    return [
        *generation,
        ["finetune", *setting.training_flags(setting.guide_steps), *weights, *training],
        *(_pretrain(name, folder) for name in pretrainings),
        ["compare", *setting.training_flags(setting.steps), *comparison, "--output", str(folder / "compare")],
    ]


def _pretrain(name: str, folder: Path) -> list[str]:
    kind, overrides = PRETRAININGS[name]
    flags = ["--guide", str(folder / "guide"), "--interpolator", kind, "--output", str(_pretraining(name, folder))]
    return ["pretrain", *flags, *(word for value in overrides for word in ("--set", value)), "--resume"]


def _pretraining(name: str, folder: Path) -> Path:
    return folder / f"pretrain-{name}"


def _interpolator(method: str, folder: Path) -> str:
    """A method as in ``--interpolators``."""
    if method not in PRETRAINED:
        return method
    name, stage = PRETRAINED[method]
    return f"{method}={_pretraining(name, folder) / stage}"


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
