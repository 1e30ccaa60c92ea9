"""ImageNet weights against random ones as the start of a fine-tuning: ``python -m benchmarks.imagenet_start``.

The same preset is trained from both, with the same data, order of images and number of steps, for several seeds. Each
training is a run of ``finetune`` in the output folder; an interrupted one is continued by the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from afictl.presets import load_preset
from afictl.training import HardwareSettings, InitialWeights, finetune, launch
from benchmarks.results import run_benchmark, write_results

_PRESET = "faster-rcnn-lite0-fpn"
_COMMON = ("loader.workers=0", "train.warmup_steps=20")
_FROM_SCRATCH = ("backbone.pretrained=false", "backbone.norm=batch", "backbone.frozen_stages=0")
_METRICS = ("box/AP", "box/AP50")


class Start(NamedTuple):
    """Source of the initial weights of the backbone."""

    name: str
    overrides: tuple[str, ...]
    weights: Path | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing in the output folder, and print and write the table."""
    options = _parse(arguments)
    starts = (
        Start("imagenet", (), options.backbone_weights),
        Start("random", _FROM_SCRATCH, None),
    )
    results: dict[str, list[dict[str, float]]] = {start.name: [] for start in starts}
    for seed in range(options.seeds):
        for start in starts:
            figures = _train(options, start, seed)
            results[start.name].append(figures)
            print(f"{start.name}, seed {seed}: {_format([figures])}", flush=True)
    for name, runs in results.items():
        print(f"{name}: {_format(runs)}")
    differences = [
        imagenet["box/AP"] - random["box/AP"]
        for imagenet, random in zip(results["imagenet"], results["random"], strict=True)
    ]
    print(f"difference in AP, of each seed: {', '.join(f'{value:+.1f}' for value in differences)}")
    write_results(options.json, {"settings": options.set, "steps": options.steps, "results": results})


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="dataset with train and val")
    parser.add_argument("--backbone-weights", type=Path, metavar="FILE", help="default: timm downloads them")
    parser.add_argument("--output", type=Path, default=Path("runs/imagenet-start"), metavar="DIR")
    parser.add_argument("--preset", default=_PRESET)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of both starts; repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def _train(options: argparse.Namespace, start: Start, seed: int) -> dict[str, float]:
    """Metrics and minutes of one run, which is continued if it exists."""
    steps = (f"train.steps={options.steps}", f"train.eval_every={options.steps}", "train.checkpoint_every=20")
    preset = load_preset(options.preset, (*_COMMON, *steps, *start.overrides, *options.set))
    fabric = launch(HardwareSettings(devices="1"), [preset.train.batch_size])
    initial = InitialWeights(interpolator="nearest", backbone_weights=start.weights)
    folder = options.output / f"{start.name}-seed{seed}"
    outcome = finetune(fabric, preset, options.data, folder, initial, seed=seed, resume=True)
    values = {key: float(outcome.metrics[key] or 0) for key in _METRICS}
    return {**values, "minutes": outcome.seconds / 60}


def _format(runs: Sequence[dict[str, float]]) -> str:
    """Mean and standard deviation of each figure."""
    columns = []
    for key in (*_METRICS, "minutes"):
        values = [run[key] for run in runs]
        spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        columns.append(f"{key.removeprefix('box/')} {mean(values):.1f}{spread}")
    return ", ".join(columns)


if __name__ == "__main__":
    run_benchmark(main)
