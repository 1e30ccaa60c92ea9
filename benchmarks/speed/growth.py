"""Time against the size of a workload: a table, the exponent of a power law fitted to it, and a plot."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from afictl import AFInterpolator, build_detector, load_preset
from afictl.data import load_dataset, make_shapes
from afictl.detectors import Detector
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation import evaluate
from afictl.run_records import read_metrics
from afictl.visualization.palette import LINE_COLORS, rgb_fractions
from afictl.visualization.plotting import save_figure
from benchmarks.speed.machine import Machine
from benchmarks.speed.rows import alternate

_MAPS, _SHORT_MAPS = ((13, 21), (25, 42), (50, 84), (100, 168)), ((4, 6), (8, 12))
_BATCHES, _SHORT_BATCHES = (1, 2, 4, 8), (1, 2)
_IMAGES, _SHORT_IMAGES = (8, 16, 32, 64), (1, 2)
_SIDE, _SHORT_SIDE = 160, 64
_SECONDS = 6.0
_PRESET = "faster-rcnn-r18-fpn-tiny"
_SETTINGS = ("input.test_size=96", "loader.workers=0")
_SHORT_SETTINGS = (*_SETTINGS, "backbone.name=test_resnet", "neck.channels=16", "detector.fc_width=16")
_IMAGES_PER_DEVICE, _STEPS, _SHORT_STEPS = 8, 60, 4


@dataclass(frozen=True)
class Curve:
    """Measured values of growing workloads."""

    name: str
    variable: str
    unit: str
    """Of the values."""
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    """Medians."""

    @property
    def fit(self) -> tuple[float, float]:
        """Exponent and factor of the power law ``factor * size ** exponent`` of least squares of the logarithms."""
        exponent, offset = np.polyfit(np.log(self.sizes), np.log(self.values), 1)
        return float(exponent), float(np.exp(offset))


def measure_growth(machine: Machine) -> Iterator[Curve]:
    """The curves; that of devices only where there are several."""
    torch.manual_seed(0)
    yield _interpolator_curve(machine)
    detector = build_detector(load_preset(_PRESET, _settings(machine)), 4).to(machine.device)
    yield _batch_curve(machine, detector)
    with tempfile.TemporaryDirectory(prefix="afictl-benchmark-") as name:
        data = make_shapes(Path(name) / "shapes", train=_IMAGES_PER_DEVICE, val=max(_IMAGES), size=96)
        yield _evaluation_curve(machine, detector.eval(), data)
        if machine.device.type == "cuda" and torch.cuda.device_count() > 1:
            yield devices_curve(data, Path(name), _powers_of_two(torch.cuda.device_count()), _settings(machine), _STEPS)


def _settings(machine: Machine) -> tuple[str, ...]:
    return _SHORT_SETTINGS if machine.short else _SETTINGS


def _powers_of_two(limit: int) -> tuple[int, ...]:
    return tuple(2**k for k in range(limit.bit_length()))


def _interpolator_curve(machine: Machine) -> Curve:
    maps, channels = (_SHORT_MAPS, 16) if machine.short else (_MAPS, 256)
    module = AFInterpolator(channels).to(machine.device).eval()
    inputs = {h * w: torch.randn(1, channels, h, w, device=machine.device) for h, w in maps}
    with torch.no_grad():
        runs = {size: partial(module, coarse) for size, coarse in inputs.items()}
        return _timed_curve("AF interpolator", "pixels of the coarse map", runs, machine)


def _batch_curve(machine: Machine, detector: Detector) -> Curve:
    """A training step: losses, backward pass and update."""
    batches, side = (_SHORT_BATCHES, _SHORT_SIDE) if machine.short else (_BATCHES, _SIDE)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-6)
    image = torch.rand(3, side, side, device=machine.device)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 30.0], [20.0, 25.0, 36.0, 55.0]], device=machine.device)
    target = {"boxes": boxes, "labels": torch.tensor([1, 2], device=machine.device)}

    def step(size: int) -> None:
        losses = detector.train()([image] * size, [target] * size)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    runs = {size: partial(step, size) for size in batches}
    return _timed_curve(f"training step of {_PRESET}", f"images of {side}x{side}", runs, machine)


def _evaluation_curve(machine: Machine, detector: Detector, data: Path) -> Curve:
    dataset, runtime = load_dataset(data, "val"), Runtime(machine.device, workers=0)
    runs = {
        size: partial(evaluate, detector, dataset, runtime, limit=size)
        for size in (_SHORT_IMAGES if machine.short else _IMAGES)
    }
    return _timed_curve(f"evaluation of {_PRESET}", "images of 96x96", runs, machine)


def _timed_curve(name: str, variable: str, runs: Mapping[int, Callable[[], object]], machine: Machine) -> Curve:
    """Medians of the times, after a warm-up."""
    for run in runs.values():
        run()
    times = alternate({str(size): run for size, run in runs.items()}, machine.device, _SECONDS, machine.short)
    return Curve(name, variable, "s", tuple(runs), tuple(map(statistics.median, times.values())))


def devices_curve(data: Path, folder: Path, counts: Sequence[int], settings: Sequence[str], steps: int) -> Curve:
    """Images per second of ``afictl finetune`` on numbers of devices, with equal batches per device.

    Args:
        data: dataset to train on.
        folder: to write the runs to.
        counts: of devices.
        settings: of the preset.
        steps: of each training; its last interval is the one that counts.

    Raises:
        UserError: a training failed.
    """
    speeds = []
    for count in counts:
        batch, output = _IMAGES_PER_DEVICE * count, folder / f"devices-{count}"
        values = (*settings, f"train.batch_size={batch}", f"train.steps={steps}", f"train.eval_every={steps}")
        flags = [word for value in values for word in ("--set", value)]
        paths = ["--data", str(data), "--output", str(output), "--devices", str(count)]
        command = [sys.executable, "-m", "afictl", "finetune", "--preset", _PRESET, *paths, *flags]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            raise UserError(f"afictl finetune --devices {count} failed: {' '.join(process.stderr.split()[-30:])}")
        seconds = [record["seconds_per_step"] for record in read_metrics(output) if "seconds_per_step" in record]
        speeds.append(batch / float(seconds[-1] or 0))
    return Curve(f"training of {_PRESET}", "devices", "images/s", tuple(counts), tuple(speeds))


def growth_table(curves: Sequence[Curve]) -> Table:
    """Values of each curve, and its exponent."""
    table = Table("", "by", "", "exponent", title="growth", title_justify="left", box=None)
    for curve in curves:
        points = (f"{size}: {value:.3g}" for size, value in zip(curve.sizes, curve.values, strict=True))
        table.add_row(curve.name, curve.variable, f"{',  '.join(points)} {curve.unit}", f"{curve.fit[0]:.2f}")
    return table


def plot_growth(curves: Sequence[Curve], path: Path) -> None:
    """Write the curves with their power laws, both axes logarithmic; the suffix of ``path`` is the format."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(4.2 * len(curves), 3.6), layout="constrained")
    points_color, line_color = (rgb_fractions(color) for color in LINE_COLORS[:2])
    for axis, curve in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves, strict=True):
        exponent, factor = curve.fit
        fitted = [factor * size**exponent for size in curve.sizes]
        axis.plot(curve.sizes, fitted, color=line_color, label=f"power law, exponent {exponent:.2f}")
        axis.plot(curve.sizes, curve.values, "o", color=points_color, label="median")
        axis.set(xscale="log", yscale="log", xlabel=curve.variable, ylabel=curve.unit)
        axis.set_title(curve.name, fontsize="medium")
        axis.minorticks_off()
        axis.set_xticks(curve.sizes, list(map(str, curve.sizes)))
        axis.set_yticks(curve.values, [f"{value:.3g}" for value in curve.values])
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize="small")
    save_figure(figure, path)
