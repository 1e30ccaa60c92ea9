"""``afictl data anchors``: anchors, or size ranges, that fit the boxes of a dataset."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.tables import wide_console
from afictl.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from afictl.data import Dataset
    from afictl.detectors.anchor_fit import AnchorFit
    from afictl.presets import Preset
    from afictl.presets.architecture import AnchorConfig, PointConfig


def propose_anchors(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or YAML file.")],
    preset: Annotated[str, options.PRESET],
    overrides: options.Overrides = None,
    debug: options.Debug = False,
) -> None:
    """Fit the anchors of a preset to the training boxes of a dataset, as they are after resizing.

    Prints the overlap of the boxes with the anchors of the preset and with those that fit better, and the --set flags
    for them. There are as many sizes and ratios as in the preset. For FCOS and CenterMask, which have no anchors, the
    size ranges of the levels are fitted.
    """
    from afictl.data.layouts import describe_data, load_dataset
    from afictl.data.resized_boxes import resized_boxes
    from afictl.presets import load_preset
    from afictl.presets.architecture import PointConfig, has_anchors

    loaded = load_preset(preset, overrides or ())
    detector, sizes = loaded.detector, loaded.input
    if not (has_anchors(detector) or isinstance(detector, PointConfig)):
        raise UserError(f"{loaded.name} has no anchors, so there is nothing to fit")
    dataset = load_dataset(data, "train")
    boxes = resized_boxes(dataset, sizes, sizes.min_sizes)
    if not len(boxes):
        raise UserError(f"{dataset.annotation_file}: no object to train on, so there is nothing to fit anchors to")
    typer.echo(describe_data(data, {"train": len(dataset)}))
    sides = ", ".join(map(str, sizes.min_sizes))
    typer.echo(f"{loaded.name}: {len(boxes) // len(sizes.min_sizes):,} boxes of train, at short sides of {sides} px")
    if has_anchors(detector):
        fit = _propose_anchors(loaded, detector, boxes)
        _print_advice(dataset, loaded, fit)
    elif isinstance(detector, PointConfig):
        _propose_ranges(loaded, detector, boxes)


def _propose_anchors(preset: Preset, detector: AnchorConfig, boxes: np.ndarray) -> AnchorFit:
    """Print the fit of today's and of better anchors, and return the better one."""
    from afictl.detectors.anchor_fit import AnchorFitting
    from afictl.necks import pyramid_strides
    from afictl.presets.architecture import LibraryConfig

    strides = pyramid_strides(preset.neck)
    fitting = AnchorFitting(boxes, list(strides.values()), detector.anchors_per_octave)
    now = fitting.measure(detector.anchor_sizes, detector.anchor_ratios)
    fixed_ratios = isinstance(detector, LibraryConfig)
    proposed = fitting.propose(now.sizes, now.ratios, keep_ratios=fixed_ratios)
    if fitting.num_boxes < len(boxes):
        typer.echo(f"an even sample of {fitting.num_boxes:,} of the {len(boxes):,} resized boxes")
    fits = {"now": now} if proposed == now else {"now": now, "proposed": proposed}
    _print_levels("anchor size", strides, {name: (fit.sizes, fit.level_shares) for name, fit in fits.items()})
    _print_fits(fits)
    if proposed == now:
        typer.echo("The anchors of the preset stay: none that are clearly better were found.")
        return now
    settings = {"anchor_sizes": proposed.sizes} | ({} if fixed_ratios else {"anchor_ratios": proposed.ratios})
    typer.echo(_flags(settings))
    return proposed


def _print_advice(dataset: Dataset, preset: Preset, fit: AnchorFit) -> None:
    """Print what helps where even the best anchors fit few boxes, as objects are too small for the levels."""
    from afictl.visualization.object_sizes import MIN_ANCHOR_SHARE, ObjectSizes

    advice = ObjectSizes(dataset, preset).advice() if fit.share < MIN_ANCHOR_SHARE else []
    if advice:
        typer.echo("\n".join(("note: anchors alone do not suffice for small objects.", *advice)))


def _propose_ranges(preset: Preset, detector: PointConfig, boxes: np.ndarray) -> None:
    from afictl.detectors.anchor_fit import measure_ranges, propose_ranges
    from afictl.necks import pyramid_strides

    strides = pyramid_strides(preset.neck)
    now, proposed = measure_ranges(boxes, detector.size_ranges), propose_ranges(boxes, list(strides.values()))
    typer.echo(f"{detector.kind} has no anchors: its levels differ in the size of their objects, detector.size_ranges.")
    fits = {"now": now, "proposed": proposed}
    _print_levels("largest distance", strides, {name: (fit.ranges, fit.level_shares) for name, fit in fits.items()})
    typer.echo(_flags({"size_ranges": proposed.ranges}))


def _print_levels(
    heading: str, strides: Mapping[str, int], choices: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> None:
    """Print the size and the share of the boxes of each level for each choice; the last of ranges has no limit."""
    from rich.table import Table

    table = Table("level", box=None)
    for title in ("stride", *(text for name in choices for text in (f"{heading} {name}", "boxes"))):
        table.add_column(title, justify="right")
    for k, (level, stride) in enumerate(strides.items()):
        cells = ((f"{sizes[k]:g}" if k < len(sizes) else "-", f"{part[k]:.1%}") for sizes, part in choices.values())
        table.add_row(level, str(stride), *(text for pair in cells for text in pair))
    wide_console().print(table)


def _print_fits(fits: Mapping[str, AnchorFit]) -> None:
    from rich.table import Table

    from afictl.detectors.anchor_fit import MIN_IOU

    table = Table("anchors", box=None)
    for title in ("ratios (height / width)", "mean best IoU", f"boxes with IoU >= {MIN_IOU}"):
        table.add_column(title, justify="right")
    for name, fit in fits.items():
        table.add_row(name, ", ".join(f"{ratio:g}" for ratio in fit.ratios), f"{fit.mean_iou:.3f}", f"{fit.share:.1%}")
    wide_console().print(table)


def _flags(settings: Mapping[str, Sequence[float]]) -> str:
    """The ``--set`` flags for keys of ``detector``, quoted for a shell."""
    texts = (f"detector.{key}=[{','.join(f'{value:g}' for value in values)}]" for key, values in settings.items())
    return " ".join(f"--set {shlex.quote(text)}" for text in texts)
