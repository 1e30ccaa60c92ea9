"""Benchmark of ``--compile`` and of fused optimizers: processor time of one thread, with and without, in turns.

Every part that ``--compile`` considers is timed: in training (forward and backward), in detection, and in stage 1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from afictl import build_detector, build_interpolator, load_preset
from afictl.detectors import Detector
from afictl.discriminator import PatchDiscriminator
from afictl.presets import Preset
from afictl.training.compilation import Part, compile_in_place, detector_parts, stage1_parts, trial_images
from afictl.training.optimization import build_optimizer
from benchmarks.results import run_benchmark, write_results

COMPUTATIONS = ("training", "detection", "stage1", "optimizers")
_WITHOUT, _WITH = "without", "with"

Figures = dict[str, Any]
"""Name of a computation, milliseconds without and with a measure, and the ratio."""


def time_parts(computation: str, parts: Sequence[Part], rounds: int) -> list[Figures]:
    """Compile each part by itself and time it in turns with itself without compilation."""
    figures = []
    for part in parts:
        part.run()
        compile_in_place(part.module)
        start = time.process_time()
        part.run()
        seconds = time.process_time() - start
        figures.append({**_time(f"{computation}, {part.name}", _without(part), part.run, rounds), "seconds": seconds})
        print(f"{figures[-1]['name']}: {figures[-1]['ratio']:.2f} times as fast", flush=True)
        part.module.compile(disable=True)
        torch.compiler.reset()
    return figures


def _without(part: Part) -> Callable[[], None]:
    def run() -> None:
        with torch.compiler.set_stance("force_eager"):
            part.run()

    return run


def time_optimizers(detector: Detector, rounds: int) -> list[Figures]:
    """Time a step of each kind of optimizer for all parameters of ``detector``, plain and fused."""
    for parameter in detector.parameters():
        parameter.grad = 1e-3 * torch.ones_like(parameter)
    figures = []
    for kind in ("sgd", "adamw"):
        recipe = detector.preset.train.model_copy(update={"optimizer": kind})
        plain, fused = (build_optimizer(detector, recipe, fused=value) for value in (False, True))
        for optimizer in (plain, fused):
            optimizer.step()  # allocates its state
        figures.append(_time(f"step of {kind}, fused", plain.step, fused.step, rounds))
    return figures


def _time(name: str, without: Callable[[], object], with_: Callable[[], object], rounds: int) -> Figures:
    times: dict[str, list[float]] = {_WITHOUT: [], _WITH: []}
    for _ in range(rounds):
        for label, run in ((_WITHOUT, without), (_WITH, with_)):
            start = time.process_time()
            run()
            times[label].append(1000 * (time.process_time() - start))
    ratio = statistics.median(before / after for before, after in zip(*times.values(), strict=True))
    return {"name": name, **{label: statistics.median(values) for label, values in times.items()}, "ratio": ratio}


def measure(
    preset: Preset, interpolator: str, count: int, rounds: int, computations: Sequence[str] = COMPUTATIONS
) -> list[Figures]:
    """Figures of the parts of some of ``COMPUTATIONS``, for ``count`` images of the preset's size."""
    detector = build_detector(preset, 3, interpolator)
    images = trial_images(detector, count, max(preset.input.min_sizes))

    def pyramid() -> dict[str, Tensor]:
        return detector.pyramid(images)

    figures = []
    if "training" in computations:
        figures += time_parts("training", detector_parts(detector, pyramid, trains=True), rounds)
    if "detection" in computations:
        detector.eval()
        figures += time_parts("detection", detector_parts(detector, pyramid, trains=False), rounds)
    if "stage1" in computations:
        channels = detector.neck.channels
        learned, discriminator = build_interpolator(interpolator, channels), PatchDiscriminator(channels)
        guide = build_detector(preset, 3, "nearest").eval().requires_grad_(False)
        figures += time_parts("stage 1", stage1_parts(guide, learned, discriminator, preset.stage1, count), rounds)
    if "optimizers" in computations:
        figures += time_optimizers(detector, rounds)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure on this machine, print a table and write the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.acceleration", description=__doc__)
    parser.add_argument(
        "computations", nargs="*", metavar="COMPUTATION", help=f"of {', '.join(COMPUTATIONS)}; default: all"
    )
    parser.add_argument("--preset", default="mask-rcnn-r18-fpn-tiny")
    parser.add_argument("--interpolator", default="afi")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--count", type=int, default=2, help="images of a batch")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions; medians are reported")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preset = load_preset(options.preset, [*options.overrides, "backbone.pretrained=false"])
    computations = options.computations or COMPUTATIONS
    if unknown := set(computations) - set(COMPUTATIONS):
        parser.error(f"unknown computation {', '.join(unknown)}; choose of {', '.join(COMPUTATIONS)}")
    figures = measure(preset, options.interpolator, options.count, options.rounds, computations)
    table = Table(title=f"{preset.name} with {options.interpolator}, batch of {options.count}: milliseconds")
    for header in ("computation", _WITHOUT, _WITH, "times as fast", "compilation, s"):
        table.add_column(header, justify="left" if header == "computation" else "right")
    for row in figures:
        seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
        table.add_row(row["name"], *(f"{row[key]:.1f}" for key in (_WITHOUT, _WITH)), f"{row['ratio']:.2f}", seconds)
    Console().print(table)
    write_results(options.json, {"preset": preset.name, "figures": figures})


if __name__ == "__main__":
    run_benchmark(main)
