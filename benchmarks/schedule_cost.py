"""Duration of the full COCO schedules on paper: ``python -m benchmarks.schedule_cost``.

Multiply-adds of one image are counted on the meta device for every preset with a published result, and divided by a
stated rate. Nothing is trained. A backward pass counts as two forward passes, also of frozen layers, and the head as in
inference (1,000 regions); reading, resizing, losses, optimizer and communication count nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from rich.console import Console
from rich.table import Table

from afictl import build_detector, list_presets, load_preset
from afictl.detectors.cost import interpolator_cost, model_cost
from afictl.detectors.detector import Detector
from afictl.discriminator import PatchDiscriminator
from afictl.presets import Preset, Recipe
from benchmarks.results import run_benchmark, write_results

_TRAINED = 3
"""Forward passes of a module that is trained: one forward, and two for the gradients of inputs and weights."""
_DISCRIMINATED = 8
"""Forward passes of the discriminator: its update on real and generated maps, and the generator's through it."""
_EXTRACTOR = ("backbone", "neck", "interpolator")


class Cost(TypedDict):
    """Multiply-adds of one training image in each stage, and hours on all GPUs; stage 3 with ``nearest`` and ``afi``.

    ``guide`` is stage 3 with ``nearest``.
    """

    multiply_adds: dict[str, int]
    hours: dict[str, float]


def preset_cost(preset: Preset, image_hw: tuple[int, int], rate: float) -> Cost:
    """Cost of all stages of a preset.

    Args:
        preset: detector and recipes.
        image_hw: height and width of every training image.
        rate: operations per second of all GPUs together, two per multiply-add.
    """
    with torch.device("meta"):
        guide, detector = (build_detector(preset, interpolator=kind) for kind in ("nearest", "afi"))
    half_hw = (image_hw[0] // 2, image_hw[1] // 2)
    full, half = (_extractor_cost(guide, size) for size in (image_hw, half_hw))
    multiply_adds = {
        "guide": _TRAINED * _total_cost(guide, image_hw),
        "stage1": full + half + _enlargement_cost(detector, half_hw) + _discriminator_cost(guide, image_hw),
        "stage2": full + _TRAINED * _total_cost(detector, half_hw) + _discriminator_cost(guide, half_hw),
        "stage3": _TRAINED * _total_cost(detector, image_hw),
    }
    recipes: dict[str, Recipe] = {
        "guide": preset.train,
        "stage1": preset.stage1,
        "stage2": preset.stage2,
        "stage3": preset.train,
    }
    images = {name: recipe.steps * recipe.batch_size for name, recipe in recipes.items()}
    hours = {name: 2 * count * images[name] / rate / 3600 for name, count in multiply_adds.items()}
    return {"multiply_adds": multiply_adds, "hours": hours}


def _total_cost(detector: Detector, image_hw: tuple[int, int]) -> int:
    return sum(part.multiply_adds for part in model_cost(detector, image_hw))


def _extractor_cost(detector: Detector, image_hw: tuple[int, int]) -> int:
    """Of the features of a frozen guide."""
    return sum(part.multiply_adds for part in model_cost(detector, image_hw) if part.name in _EXTRACTOR)


def _enlargement_cost(detector: Detector, image_hw: tuple[int, int]) -> int:
    """Of the training of the interpolator on every level of the pyramid."""
    interpolator = detector.neck.interpolator
    return _TRAINED * sum(interpolator_cost(interpolator, value) for value in _pyramid(detector, image_hw))


def _discriminator_cost(detector: Detector, image_hw: tuple[int, int]) -> int:
    """Of the discriminator on every level of the pyramid, in a step."""
    maps = _pyramid(detector, image_hw)
    with torch.device("meta"):
        discriminator = PatchDiscriminator(maps[0].shape[1])
    return _DISCRIMINATED * sum(interpolator_cost(discriminator.eval(), value) for value in maps)


def _pyramid(detector: Detector, image_hw: tuple[int, int]) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(detector.eval().pyramid([torch.empty(3, *image_hw, device="meta")]).values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, print a table and write the numbers as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedule_cost", description=__doc__)
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="default: those with a published result")
    parser.add_argument("--image", default="1088x800", metavar="WxH", help="size of every training image")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--peak", type=float, default=312.0, help="10^12 bf16 operations per second of a GPU: an A100")
    parser.add_argument("--share", type=float, default=0.1, help="part of --peak that a training sustains")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    options = parser.parse_args(arguments)
    width, height = map(int, options.image.split("x"))
    rate = options.gpus * options.peak * 1e12 * options.share
    names = options.presets or [name for name in list_presets() if load_preset(name).published.afi.box is not None]
    table = Table("preset", title=f"hours on {options.gpus} GPUs of {options.peak * options.share:.1f}e12 operations/s")
    for header in ("guide", "stage 1", "stage 2", "stage 3", "all", "GPU-hours"):
        table.add_column(header, justify="right")
    costs: dict[str, Cost] = {}
    for name in names:
        costs[name] = preset_cost(load_preset(name), (height, width), rate)
        hours = costs[name]["hours"]
        total = sum(hours.values())
        table.add_row(name, *(f"{value:.1f}" for value in (*hours.values(), total)), f"{total * options.gpus:.0f}")
    Console(width=120).print(table)
    write_results(options.json, {"options": {**vars(options), "json": str(options.json)}, "costs": costs})


if __name__ == "__main__":
    run_benchmark(main)
