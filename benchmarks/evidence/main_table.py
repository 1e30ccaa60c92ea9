"""Accuracy and cost of all interpolators in one setting: ``python -m benchmarks.evidence.main_table SETTING``.

It runs ``afictl``: ``data shapes`` where the data are generated, ``finetune`` for the guide, ``pretrain`` for AFI and
``compare`` for the table, and prints each command. The same call continues what was interrupted, and adds seeds.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from afictl.errors import UserError
from benchmarks.evidence.settings import METHODS, PRETRAINED, PRETRAINED_METHODS, SETTINGS, Setting
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
    trained = {kind: folder / f"pretrain-{kind}" for kind in PRETRAINED}
    sources = {name: trained[kind] / stage for name, (kind, stage) in PRETRAINED_METHODS.items()}
    methods = options.interpolators.split(",")
    kinds = dict.fromkeys(PRETRAINED_METHODS[name][0] for name in methods if name in PRETRAINED_METHODS)
    named = ",".join(f"{name}={sources[name]}" if name in sources else name for name in methods)
    comparison = ["--data", str(data), "--weights", str(guide), "--interpolators", named, "--seeds", str(options.seeds)]
    generation = [["data", "shapes", str(data), *setting.generated]] if setting.generated and not data.exists() else []
    return [
        *generation,
        ["finetune", *setting.training_flags(setting.guide_steps), *weights, *training],
        *(
            ["pretrain", "--guide", str(guide), "--interpolator", kind, "--output", str(trained[kind]), "--resume"]
            for kind in kinds
        ),
        ["compare", *setting.training_flags(setting.steps), *comparison, "--output", str(folder / "compare")],
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--data", type=Path, metavar="DIR", help="dataset with train and val; not for 'shapes'")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help="ImageNet weights of the backbone")
    parser.add_argument("--output", type=Path, default=Path("runs/evidence"), metavar="DIR")
    parser.add_argument("--interpolators", metavar="NAMES", default=",".join(METHODS), help="methods; default: all")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
