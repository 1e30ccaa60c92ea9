"""``afictl data``: check a data set before training on it, take a part of its labels, or generate one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.outputs import output_file, output_folder, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from afictl.data.check_report import SplitReport

app = typer.Typer(
    name="data",
    help="Check a data set in COCO layout, take a part of its labels, or generate one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_FEW = 3
_WIDEST = 10_000
_COLOURS = {"stops": "red", "drops": "yellow", "mends": "cyan", "fine": "dim"}


@app.command()
def shapes(
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=output_folder, help="Folder to write; replaced if it holds shapes."),
    ],
    train: Annotated[int, typer.Option(min=1, help="Training images.")] = 400,
    val: Annotated[int, typer.Option(min=1, help="Validation images.")] = 100,
    size: Annotated[int, typer.Option(min=64, help="Side of the square images in pixels.")] = 176,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Generate a COCO-format set: many small discs, squares, triangles and crosses, with exact masks."""
    from afictl.data.shapes import make_shapes

    make_shapes(output, train=train, val=val, size=size, seed=seed)
    typer.echo(f"{train} training and {val} validation images: {output}")


@app.command()
def subset(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Data set in COCO layout.")],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", callback=output_folder, help="Folder to write; must be absent or empty."),
    ],
    fraction: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, callback=options.finite, help="Part of the training images that keeps its labels."
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which images: another seed, other images.")] = 0,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the image files instead of linking to them.")] = False,
    debug: options.Debug = False,
) -> None:
    """Keep the labels of a part of the training images; the others become OUT/unlabeled/.

    OUT is a data set in COCO layout: train is that part, the other splits are whole. The same fraction and seed choose
    the same images everywhere, and a smaller fraction a part of those of a larger one.
    """
    from afictl.data.subset import UNLABELED, write_subset

    parts = write_subset(data, output, fraction, seed, copy=copy)
    typer.echo(f"{parts.labelled} training images with labels, {parts.unlabelled} without in {output / UNLABELED}")
    typer.echo("objects: " + ", ".join(f"{name} {count}" for name, count in parts.objects.items()))
    typer.echo(f"data set: {output}")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Data set in COCO layout.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    images: Annotated[bool, typer.Option(help="Decode every image file.")] = True,
    every: Annotated[bool, typer.Option("--all", help="List every place of a finding, not the first few.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=output_file, help="Write everything found to this file.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Find what is wrong or unusual in a data set, and say what training will do about it.

    Exit code 0: training will run. 1: something listed prevents it.
    """
    from rich.console import Console

    from afictl.data.check import splits_to_check

    console = Console()
    reports = [_check_split(data, name, images, console) for name in splits_to_check(data, split)]
    for report in reports:
        _print_report(report, console, every)
    if json_file:
        write_json(json_file, [report.as_json() for report in reports])
    fatal = sum(len(report.fatal) for report in reports)
    if fatal:
        kinds = f"{fatal} kind{'' if fatal == 1 else 's'} of problem"
        console.print(f"[red]Training cannot run: {kinds} (red above) must be mended first.[/]", soft_wrap=True)
        raise typer.Exit(1)
    unseen = "" if images else ", unless an image file is at fault: they were not looked at"
    console.print(f"[green]Training will run[/]{unseen}.")


def _check_split(data: Path, split: str, images: bool, console: Console) -> SplitReport:
    from afictl.data.check import check_split
    from afictl.progress import show_progress

    if not images:
        return check_split(data, split, images=False)
    with show_progress(console, f"{split} images") as progress:
        return check_split(data, split, progress=progress)


def _print_report(report: SplitReport, console: Console, every: bool) -> None:
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
        _print_whole(console, _findings(report, every))


def _print_whole(console: Console, table: Table) -> None:
    """Elsewhere than on a terminal as wide as its longest line, so that no path is broken."""
    if not console.is_terminal:
        needed = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
        console.width = max(console.width, needed)
    console.print(table)


def _histogram(histogram: dict[str, int]) -> object:
    from rich.columns import Columns
    from rich.markup import escape

    most_first = sorted(histogram.items(), key=lambda item: -item[1])
    return Columns([f"{escape(name)} [bold]{count}[/]" for name, count in most_first], padding=(0, 3))


def _findings(report: SplitReport, every: bool) -> Table:
    from rich.markup import escape
    from rich.table import Column, Table

    from afictl.data.check_report import RULES

    table = Table("Found", Column("Where", overflow="fold"), "What training does", show_lines=True)
    for key, rule in RULES.items():
        places = report.findings.get(key, [])
        if not places:
            continue
        shown = [escape(str(place)) for place in (places if every else places[:_FEW])]
        more = [f"... {len(places) - _FEW} more (--all)"] if len(places) > len(shown) else []
        colour = _COLOURS[rule.effect]
        table.add_row(f"{len(places)} x [{colour}]{rule.title}[/]", "\n".join(shown + more), rule.consequence)
    return table
