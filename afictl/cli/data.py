"""``afictl data``: check a dataset, keep the labels of a fraction of its images, or generate one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.data_anchors import propose_anchors
from afictl.cli.data_show import show_dataset
from afictl.cli.outputs import parse_output_file, parse_output_folder, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from afictl.data.check_report import SplitReport

app = typer.Typer(
    name="data",
    help="Check, show or convert a dataset, fit anchors to it, cut it into tiles, reduce its labels, or generate one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("show")(show_dataset)
app.command("anchors")(propose_anchors)

_MAX_LOCATIONS = 3
_COLUMN_WIDTHS = (30, 70, 46)
"""Characters of the columns of findings outside a terminal, unless a path is longer."""
_MAX_WIDTH_CHARACTERS = 10_000
_COLOURS = {"stops": "red", "drops": "yellow", "mends": "cyan", "fine": "dim"}


@app.command("shapes")
def generate_shapes(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", callback=parse_output_folder, help="Folder to write; an earlier set is replaced."
        ),
    ],
    train: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of training images.")] = 400,
    val: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of validation images.")] = 100,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Side of the square images in pixels.")] = 176,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Generate a dataset in COCO layout: small discs, squares, triangles and crosses, with exact masks."""
    from afictl.data.shapes import make_shapes

    make_shapes(output, train=train, val=val, size=size, seed=seed)
    typer.echo(f"{train} training and {val} validation images: {output}")


@app.command("subset")
def select_subset(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or YAML file.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=parse_output_folder, help="Folder to write; must be absent or empty."),
    ],
    fraction: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            callback=options.require_finite,
            help="Fraction of training images that keep their labels.",
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, max=options.SEED_MAX, help="Random seed of the selection.")] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the image files instead of linking to them.")] = False,
    debug: options.Debug = False,
) -> None:
    """Keep the labels of a fraction of the training images; the others go to OUT/unlabeled/.

    OUT is a dataset in COCO layout: train has the labelled fraction, the other splits are complete. The selection
    depends only on dataset, fraction and seed; that of a smaller fraction is a subset of that of a larger one.
    """
    from afictl.data.layouts import describe_data
    from afictl.data.subset import UNLABELED, write_subset

    counts = write_subset(data, output, fraction, seed, copy=copy)
    typer.echo(describe_data(data, {"train": counts.labelled + counts.unlabelled}))
    typer.echo(f"{counts.labelled} training images with labels, {counts.unlabelled} without in {output / UNLABELED}")
    typer.echo("objects: " + ", ".join(f"{name} {count}" for name, count in counts.objects.items()))
    typer.echo(f"dataset: {output}")


@app.command("convert")
def convert(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or YAML file.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=parse_output_folder, help="Folder to write; must be absent or empty."),
    ],
    to: Annotated[str, typer.Option("--to", help="Format: coco, yolo or voc.")],
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the image files. Default: hard links, which share their content.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Write a dataset in the format of COCO, YOLO or Pascal VOC.

    Boxes, polygons, names and splits are kept where the format has a form for them; the command says what it has none
    for. OUT is written completely or not at all.
    """
    from afictl.data.convert import convert_dataset
    from afictl.data.layouts import describe_data

    conversion = convert_dataset(data, output, to, copy=copy)
    typer.echo(describe_data(data, conversion.images))
    for reason, count in conversion.changes.items():
        typer.echo(f"note: {count} {reason}")
    if to != "coco":
        new = "images, annotations and categories get new ones when it is read"
        typer.echo(f"note: {to} has no ids: {new}, so that results with the ids of {data} do not fit")
    typer.echo(f"images: {conversion.linked} hard-linked, {conversion.copied} copied")
    typer.echo(f"dataset: {output}")


@app.command("slice")
def slice_images(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or YAML file.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=parse_output_folder, help="Folder to write; must be absent or empty."),
    ],
    size: Annotated[int, typer.Option("--size", min=32, max=65_536, help="Side of the square tiles in pixels.")] = 512,
    overlap: options.Overlap = 0.2,
    min_visible: Annotated[
        float,
        typer.Option(
            "--min-visible",
            min=0.0,
            max=1.0,
            callback=options.require_finite,
            help="Fraction of an object inside the tile, below which it is flagged 'iscrowd'.",
        ),
    ] = 0.1,
    debug: options.Debug = False,
) -> None:
    """Cut the images of a dataset into overlapping tiles, for small objects in large images.

    OUT is a dataset in COCO layout with the splits of DATA; boxes and masks are clipped to the tiles. In train, tiles
    without objects are left out. OUT is written completely or not at all.
    """
    from rich.console import Console

    from afictl.data.layouts import describe_data
    from afictl.data.slice import slice_dataset
    from afictl.data.tiles import Tiling
    from afictl.progress import show_progress

    progress = partial(show_progress, Console())
    counts = slice_dataset(data, output, Tiling(size, overlap), min_visible=min_visible, progress=progress)
    typer.echo(describe_data(data, {split: count.images for split, count in counts.items()}))
    for split, count in counts.items():
        left_out = f" ({count.empty_tiles} without objects left out)" if count.empty_tiles else ""
        objects = f"{count.objects} objects, {count.crowds} of them iscrowd"
        typer.echo(f"{split}: {count.images} images in {count.tiles} tiles{left_out}: {objects}")
    typer.echo(f"dataset: {output}")


@app.command("check")
def check_dataset(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Dataset: folder or YAML file.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    images: Annotated[bool, typer.Option(help="Whether to decode every image file.")] = True,
    all_locations: Annotated[
        bool, typer.Option("--all", help="List every location of a finding, not only the first three.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=parse_output_file, help="Write all findings to this file.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """List faults and peculiarities of a dataset, and the effect of each on training.

    Exit code 0: training will run; 1: a fault prevents it.
    """
    from rich.console import Console

    from afictl.data.check import splits_to_check
    from afictl.data.layouts import describe_data
    from afictl.data.other_layouts import describe_layout

    console = Console()
    reports = [_check_split(data, name, images, console) for name in splits_to_check(data, split)]
    counts = {report.split: report.images for report in reports}
    console.print(describe_data(data, counts), markup=False, highlight=False, soft_wrap=True)
    layout = "" if all(report.annotation_file for report in reports) else describe_layout(data)
    for k, report in enumerate(reports):
        _print_report(report, console, all_locations, repeated=layout if k else "")
    if json_file:
        write_json(json_file, [report.as_json() for report in reports], named_by_user=True)
    fatal = len({rule for report in reports for rule in report.fatal})
    if fatal:
        kinds = f"{fatal} kind{'' if fatal == 1 else 's'} of problem"
        console.print(f"[red]Training cannot run: {kinds} must be corrected first.[/]", soft_wrap=True)
        raise typer.Exit(1)
    condition = "" if images else ", unless an image file is faulty: image files were not checked"
    console.print(f"[green]Training will run[/]{condition}.")


def _check_split(data: Path, split: str, images: bool, console: Console) -> SplitReport:
    from afictl.data.check import check_split
    from afictl.progress import show_progress

    if not images:
        return check_split(data, split, images=False)
    with show_progress(console, f"{split} images") as progress:
        return check_split(data, split, progress=progress)


def _print_report(report: SplitReport, console: Console, all_locations: bool, repeated: str) -> None:
    """Print counts and findings of a split; ``repeated`` is advice that stands above already."""
    from rich.markup import escape

    title = f"{report.split}: {escape(report.annotation_file or 'not found')}"
    console.print(f"\n[bold]{title}[/]", soft_wrap=True)
    if report.annotation_file:
        masks = ", ".join(f"{count} {kind}" for kind, count in report.masks.items()) or "none"
        console.print(f"{report.images} images, {report.objects} objects, {len(report.histogram)} categories")
        console.print(f"usable: {report.usable_objects} objects on {report.usable_images} images")
        console.print(f"masks: {masks}")
    if report.histogram:
        console.print(_histogram(report.histogram))
    if report.findings:
        table = _findings(report, all_locations, repeated)
        if not console.is_terminal:
            _limit_columns(table)
            width = console.measure(table, options=console.options.update(max_width=_MAX_WIDTH_CHARACTERS)).maximum
            console.width = max(console.width, width)
        console.print(table)


def _limit_columns(table: Table) -> None:
    """Limit the columns to ``_COLUMN_WIDTHS``, or to their longest word, so that no path is broken."""
    for column, width in zip(table.columns, _COLUMN_WIDTHS, strict=True):
        words = (len(word) for cell in column.cells for word in str(cell).split())
        column.max_width = max(width, *words)


def _histogram(histogram: dict[str, int]) -> object:
    from rich.columns import Columns
    from rich.markup import escape

    by_count = sorted(histogram.items(), key=lambda item: -item[1])
    return Columns([f"{escape(name)} [bold]{count}[/]" for name, count in by_count], padding=(0, 3))


def _findings(report: SplitReport, all_locations: bool, repeated: str) -> Table:
    from rich.markup import escape
    from rich.table import Column, Table

    from afictl.data.check_report import RULES

    table = Table("Finding", Column("Where", overflow="fold"), "Effect on training", show_lines=True)
    for key, rule in RULES.items():
        locations = report.findings.get(key, [])
        if not locations:
            continue
        lines = list(map(str, locations[: None if all_locations else _MAX_LOCATIONS]))
        lines = [line.replace(repeated, "see above") if repeated else line for line in lines]
        lines = [escape(line) for line in lines]
        if len(locations) > len(lines):
            lines.append(f"... {len(locations) - len(lines)} more (--all)")
        title = f"[{_COLOURS[rule.effect]}]{rule.title}[/]"
        table.add_row(f"{len(locations)} x {title}", "\n".join(lines), rule.consequence)
    return table
