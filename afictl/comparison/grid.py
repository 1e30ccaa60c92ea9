"""Train one detector with several interpolators under the same conditions and measure each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from afictl.comparison.price import measure_prices, price_images
from afictl.comparison.table import Row, write_comparison
from afictl.data import load_coco
from afictl.detectors import Detector
from afictl.errors import UserError
from afictl.interpolators import interpolator_kinds
from afictl.presets import Preset
from afictl.training import Start, finetune
from afictl.training.hardware import describe, resolved
from afictl.training.run import CONFIG, LAST, write_text
from afictl.training.stage3 import resolve_interpolator
from afictl.weights import load_detector

_RESULT = "result.json"


@dataclass(frozen=True)
class Contender:
    """One interpolator of a comparison: its name in tables and its source (kind, pre-training run or file)."""

    name: str
    source: str


def parse_contenders(text: str) -> list[Contender]:
    """Read ``nearest,bilinear,afi=RUN``; a part is a kind, or a name and where its weights are.

    Raises:
        UserError: an unknown kind without a source, or a name given twice.
    """
    contenders = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, source = part.partition("=")
        if not source and name not in interpolator_kinds():
            raise UserError(
                f"--interpolators: '{name}' is no kind ({', '.join(interpolator_kinds())}); write NAME=RUN for a file"
            )
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise UserError(f"--interpolators: '{name}' cannot be a folder name; use letters, digits, - and _")
        contenders.append(Contender(name, source or name))
    names = [contender.name for contender in contenders]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles or not names:
        raise UserError(
            f"--interpolators: '{doubles[0]}' is given twice; write NAME=RUN to tell them apart"
            if doubles
            else "--interpolators: name at least one"
        )
    return contenders


def compare(
    fabric: Fabric,
    preset: Preset,
    data: Path,
    contenders: Sequence[Contender],
    output: Path,
    *,
    weights: Path | None = None,
    backbone_weights: Path | None = None,
    seed: int = 0,
) -> list[Row]:
    """Fine-tune ``preset`` once for each interpolator and measure accuracy and price.

    Everything but the interpolator is the same: start weights of all other parts, data order, augmentation, schedule
    and evaluation. A contender that is already finished in ``output`` is not trained again; an unfinished one goes on.

    Writes one run for each contender and ``comparison.json`` and ``comparison.csv``.

    Raises:
        UserError: data, weights, output or an interpolator that do not fit; before anything is trained.
    """
    starts = {each.name: Start(each.source, weights, backbone_weights) for each in contenders}
    for contender in contenders:
        _check_contender(preset, contender, output / contender.name, starts[contender.name])
    settings = {
        "preset": preset.model_dump(mode="json"),
        "data": resolved(data),
        "weights": resolved(weights),
        "backbone_weights": resolved(backbone_weights),
        "seed": seed,
        "precision": describe(fabric)["precision"],
    }
    _keep_settings(fabric, output, settings)
    for contender in contenders:
        folder, start = output / contender.name, starts[contender.name]
        if (folder / _RESULT).is_file():
            continue
        outcome = finetune(fabric, preset, data, folder, start, seed=seed, resume=(folder / CONFIG).is_file())
        if fabric.is_global_zero:
            result = {"interpolator": start.describe()["interpolator"], **asdict(outcome)}
            write_text(folder / _RESULT, json.dumps(result, indent=2))
        fabric.barrier()
    if not fabric.is_global_zero:
        return []
    rows = measure_rows(fabric, contenders, data, output)
    write_comparison(rows, output)
    return rows


def measure_rows(fabric: Fabric, contenders: Iterable[Contender], data: Path, output: Path) -> list[Row]:
    """Rows of the finished runs in ``output``; the times of all are taken in turn on the same images."""
    detectors: dict[str, Detector] = {}
    for contender in contenders:
        loaded = load_detector(output / contender.name / LAST)
        detectors[contender.name] = loaded.detector.eval()
        fabric.to_device(loaded.detector)
    view = next(iter(detectors.values())).input
    prices = measure_prices(detectors, price_images(view, load_coco(data, "val")))
    rows = []
    for name, price in prices.items():
        result = json.loads((output / name / _RESULT).read_text())
        rows.append(
            Row(
                name=name,
                metrics=result["metrics"],
                parameters=price.parameters,
                interpolator_parameters=price.interpolator_parameters,
                multiply_adds=price.multiply_adds,
                interpolator_multiply_adds=price.interpolator_multiply_adds,
                milliseconds=price.milliseconds,
                interpolator_milliseconds=price.interpolator_milliseconds,
                training_seconds=result["seconds"],
            )
        )
    return rows


def _check_contender(preset: Preset, contender: Contender, folder: Path, start: Start) -> None:
    """Refuse an interpolator that cannot be had or does not fit, or is not the one of a finished result."""
    if (folder / _RESULT).is_file():
        _check_source(folder, start)
        return
    try:
        resolve_interpolator(preset, contender.source, seed=0)
    except UserError as error:
        source = contender.source
        reason = str(error).removeprefix("--interpolator ").removeprefix(f"{source}: ")
        raise UserError(f"--interpolators {contender.name}={source}: {reason}") from None


def _check_source(folder: Path, start: Start) -> None:
    """Refuse a finished result of another interpolator under the same name."""
    held, wanted = json.loads((folder / _RESULT).read_text())["interpolator"], start.describe()["interpolator"]
    if held != wanted:
        raise UserError(f"{folder}: is the result of {held}, not of {wanted}; give it another name, NAME=RUN")


def _keep_settings(fabric: Fabric, output: Path, settings: dict[str, Any]) -> None:
    """Write ``compare.json``; refuse a folder of a comparison under other conditions, or of something else."""
    problem = ""
    if fabric.is_global_zero:  # told as text, so that every rank learns of it
        try:
            problem = _settings_problem(output, json.loads(json.dumps(settings)))
        except (OSError, ValueError) as error:
            problem = f"{output}: {' '.join(str(error).split())}"
    problem = fabric.broadcast(problem)
    if problem:
        raise UserError(problem)


def _settings_problem(output: Path, settings: dict[str, Any]) -> str:
    path = output / "compare.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        changed = [key for key in settings if kept.get(key) != settings[key]]
        if changed:
            return f"{path}: holds a comparison with another {changed[0]}; choose another --output"
        return ""
    if output.exists() and any(output.iterdir()):
        return f"{output} is not empty and holds no comparison: choose another --output"
    output.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(settings, indent=2))
    return ""
