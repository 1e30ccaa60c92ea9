"""Time of models of other libraries with and without interpolators: ``python -m benchmarks.substitution``.

Models have random weights and the size of common checkpoints, inputs are one random image. ``nearest`` replaces the
model's own interpolation, which may be bilinear; what it takes beyond ``original`` is the price of the replacement, as
nearest costs next to nothing. Alternatives take turns, in reverse order in every second round, after a warm-up. On a
CPU the time is that of the process, so that other programs hardly matter.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from afictl import substitute_interpolator
from afictl.timing import synchronized_time
from benchmarks.results import run_benchmark, write_results

ORIGINAL = "original"
ALTERNATIVES = ("nearest", "dysample", "afi-lite")


class Row(NamedTuple):
    """Measurements of one model."""

    model: str
    size_hw: tuple[int, int]
    steps: int
    milliseconds: dict[str, float]
    """Median by alternative."""
    parameters: dict[str, int]
    """Added by each alternative."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the models whose library is installed, and print and write the table."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for name, size_hw, build in _models(options.short):
        if not options.models or any(part.lower() in name.lower() for part in options.models):
            print(f"{name} ...", flush=True)
            rows.append(measure(name, size_hw, build(), torch.device(options.device), options.rounds))
    Console(width=120).print(_table(rows, options.device))
    write_results(options.json, [row._asdict() for row in rows])


def measure(name: str, size_hw: tuple[int, int], original: nn.Module, device: torch.device, rounds: int) -> Row:
    """Measure one model with every alternative."""
    original = original.eval().to(device)
    images = torch.rand(1, 3, *size_hw, device=device)
    models, steps = {ORIGINAL: original}, 0
    for kind in ALTERNATIVES:
        models[kind] = copy.deepcopy(original)
        steps = substitute_interpolator(models[kind], kind, probe=images)
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    with torch.no_grad():
        for model in models.values():
            model(images)
        for number in range(rounds):
            for kind in list(models)[:: -1 if number % 2 else 1]:
                start = _clock(device)
                models[kind](images)
                seconds[kind].append(_clock(device) - start)
    counts = {kind: sum(value.numel() for value in model.parameters()) for kind, model in models.items()}
    return Row(
        model=name,
        size_hw=size_hw,
        steps=int(steps),
        milliseconds={kind: 1000 * statistics.median(values) for kind, values in seconds.items()},
        parameters={kind: counts[kind] - counts[ORIGINAL] for kind in ALTERNATIVES},
    )


def _clock(device: torch.device) -> float:
    return time.process_time() if device.type == "cpu" else synchronized_time(device)


def _models(short: bool) -> Iterator[tuple[str, tuple[int, int], Callable[[], nn.Module]]]:
    size = (128, 192)
    if find_spec("transformers") is not None:
        for name, (size_hw, build) in _transformers_models().items():
            yield name, size if short else size_hw, build
    if find_spec("segmentation_models_pytorch") is not None:
        import segmentation_models_pytorch as smp

        for name in ("FPN", "Unet", "UPerNet", "MAnet"):
            encoder = "resnet18" if short else "resnet34"

            def build(name: str = name, encoder: str = encoder) -> nn.Module:
                return smp.create_model(name.lower(), encoder, encoder_weights=None, classes=19)

            yield f"segmentation_models_pytorch {name} {encoder}", size if short else (512, 512), build


def _transformers_models() -> Mapping[str, tuple[tuple[int, int], Callable[[], nn.Module]]]:
    import transformers

    stages = [f"stage{number}" for number in range(1, 5)]
    transformers.utils.logging.set_verbosity_error()
    return {
        "transformers RT-DETR R50": (
            (640, 640),
            lambda: transformers.RTDetrForObjectDetection(transformers.RTDetrConfig()),
        ),
        "transformers Mask2Former Swin-T": (
            (512, 512),
            lambda: transformers.Mask2FormerForUniversalSegmentation(
                transformers.Mask2FormerConfig(
                    backbone_config=transformers.AutoConfig.for_model("swin", out_features=stages)
                )
            ),
        ),
        "transformers UPerNet ConvNeXt-T": (
            (512, 512),
            lambda: transformers.UperNetForSemanticSegmentation(
                transformers.UperNetConfig(
                    backbone_config=transformers.AutoConfig.for_model(
                        "convnext", hidden_sizes=[96, 192, 384, 768], out_features=stages
                    ),
                    auxiliary_in_channels=384,
                )
            ),
        ),
    }


def _table(rows: Sequence[Row], device: str) -> Table:
    clock = "process time" if device == "cpu" else "time"
    table = Table(title=f"ms of {clock} for one image, on {device}", title_justify="left", box=None)
    for header in ("model", "image", "steps", ORIGINAL, *ALTERNATIVES, *(f"+ M, {kind}" for kind in ALTERNATIVES[1:])):
        table.add_column(header, justify="left" if header == "model" else "right")
    for row in rows:
        times = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in row.milliseconds.values()]
        added = [f"{row.parameters[kind] / 1e6:.3f}" for kind in ALTERNATIVES[1:]]
        table.add_row(row.model, "x".join(map(str, row.size_hw)), str(row.steps), *times, *added)
    return table


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="parts of the names of models; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="small images and models, to try the program")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_benchmark(main)
