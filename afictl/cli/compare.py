"""``afictl compare``: the same training with several interpolators, then accuracy and price side by side."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from afictl.cli import options
from afictl.cli.outputs import require_writable
from afictl.cli.runs import slugify
from afictl.cli.tables import wide_console
from afictl.errors import UserError
from afictl.run_folder import COMPARISON, COMPARISON_CSV, REPORT, RUNS_CSV

if TYPE_CHECKING:
    from afictl.comparison import Comparison
    from afictl.progress import ProgressDisplay

_INTERPOLATORS = "nearest,bilinear,bicubic,afi"
_OF_A_GRID = ("--backbone-weights", "--seeds", "--seed", "--spread", "--devices", "--nodes")
_OF_TRAINING = ("--preset", "--interpolators", "--weights", "--set", *_OF_A_GRID)


def compare(
    context: typer.Context,
    more: Annotated[list[Path] | None, typer.Argument(metavar="RUN", hidden=True)] = None,
    preset: Annotated[str | None, options.PRESET] = None,
    data: Annotated[Path | None, options.DATA] = None,
    interpolators: Annotated[
        str | None,
        typer.Option(
            "--interpolators",
            help=f"Kinds, or NAME=RUN of pretrain, e.g. nearest,carafe,afi=RUN. Default: {_INTERPOLATORS}.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Runs of each interpolator, with the seeds from --seed on.")
    ] = 1,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Name of what the others are compared with. Default: nearest, or the first."),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--runs",
            metavar="RUN...",
            help="Train nothing: compare these runs of finetune or compare. NAME=RUN names a run's method, for runs of "
            "one interpolator that differ in something else.",
        ),
    ] = None,
    only_cost: Annotated[
        bool,
        typer.Option("--only-cost", help="Train nothing: only the prices, on one device. --data is not needed."),
    ] = False,
    weights: options.StartWeights = None,
    backbone_weights: options.BackboneWeights = None,
    output: options.Output = None,
    settings: options.Settings = None,
    devices: options.Devices = "auto",
    spread: Annotated[
        bool, typer.Option("--spread", help="One run on each of the --devices, side by side, not one run on all.")
    ] = False,
    nodes: options.Nodes = 1,
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Fine-tune with several interpolators, all else alike.

    Within a seed, data order, augmentation, schedule and the start weights of all other parts are the same. Writes a
    run for each interpolator and seed, NAME/seedK, and report.html, comparison.json, comparison.csv and runs.csv; the
    default folder is runs/compare-PRESET. The same command again goes on where it stopped and does not repeat what is
    finished; interpolators and seeds may be added to it.

    Exit code 0: all runs are finished. 1: some failed, which the same command tries again; the others are compared.
    2: a mistake, told before anything is trained.
    """
    existing, called = _existing(runs or [], more or [])
    if existing:
        options.refuse_flags(context, "with --runs, whose runs are trained", *_OF_TRAINING, "--only-cost")
        output = output or Path("runs") / "compare-runs"
        _compare_runs(existing, output, precision, names=called, data=data, baseline=baseline)
        return
    if preset is None:
        raise UserError("give --preset and --data, or --runs with runs that exist; see 'afictl compare --help'")
    names = interpolators or _INTERPOLATORS
    if only_cost:
        options.refuse_flags(context, "with --only-cost, which trains nothing and measures on one device", *_OF_A_GRID)
        _list_prices(preset, settings or [], names, data, weights, output, precision, baseline)
        return
    if data is None:
        raise UserError("give --data; only --only-cost can do without")
    _train(
        preset,
        settings or [],
        names,
        output,
        hardware=(devices, nodes, precision),
        spread=spread,
        data=data,
        seeds=range(seed, seed + seeds),
        baseline=baseline,
        weights=weights,
        backbone_weights=backbone_weights,
    )


def _existing(runs: list[Path], more: list[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The folders of ``--runs A B C``, of which the parser sees B and C as arguments, or of ``--runs A,B,C``.

    And what the user calls the methods of some of them, with ``NAME=A``.
    """
    if more and not runs:
        raise UserError(f"'{more[0]}' belongs to no option; runs that exist are compared with --runs {more[0]} ...")
    folders, names = [], {}
    for path in [*runs, *more]:
        for part in [str(path)] if path.exists() else str(path).split(","):
            if "=" not in part or Path(part).exists():
                folders.append(Path(part))
                continue
            name, _, folder = part.partition("=")
            if not name.strip() or not folder:
                raise UserError(f"--runs {part}: write NAME=RUN, with a name and a run")
            folders.append(Path(folder))
            names[folders[-1]] = name.strip()
    twice = [folder for folder in folders if folders.count(folder) > 1]
    if twice:
        raise UserError(f"--runs: {twice[0]} is given twice")
    return folders, names


def _train(
    preset: str,
    settings: list[str],
    interpolators: str,
    output: Path | None,
    *,
    hardware: tuple[str, int, str],
    spread: bool,
    **arguments: Any,
) -> None:
    from afictl.comparison import compare, parse_methods
    from afictl.comparison.experiment.parallel import require_devices
    from afictl.presets import load_preset
    from afictl.training import HardwareSettings, launch

    devices, nodes, precision = hardware
    resolved = load_preset(preset, settings)
    contenders = parse_methods(interpolators)
    folder = output or Path("runs") / f"compare-{slugify(resolved.name)}"
    if spread and nodes > 1:
        raise UserError("--spread: runs are spread over the devices of one machine; leave --nodes out")
    at_once = require_devices(devices) if spread else 1
    fabric = launch(HardwareSettings("1" if spread else devices, nodes, precision), [resolved.train.batch_size])
    if len(contenders) == 1:
        fabric.print(f"{contenders[0].name} alone: it is trained and measured, and compared with nothing")
    answer = compare(
        fabric, resolved, methods=contenders, output=folder, spread=at_once, progress=_meter(), **arguments
    )
    if answer.comparison is not None:
        _show(answer.comparison, folder)
    if answer.failures:
        if fabric.is_global_zero:
            told = "; ".join(f"{name}: {problem}" for name, problem in answer.failures.items())
            number = len(answer.failures)
            typer.echo(
                f"error: {number} run{'s' * (number > 1)} failed, the same command tries again: {told}", err=True
            )
        raise typer.Exit(1)


def _compare_runs(folders: list[Path], output: Path, precision: str, **arguments: Any) -> None:
    from afictl.comparison import compare_runs
    from afictl.training import HardwareSettings, launch

    require_writable(output, "--output")
    fabric = launch(HardwareSettings(devices="1", precision=precision))
    _show(compare_runs(fabric, folders, output, progress=_meter(), **arguments), output)


def _list_prices(
    preset: str,
    settings: list[str],
    interpolators: str,
    data: Path | None,
    weights: Path | None,
    output: Path | None,
    precision: str,
    baseline: str | None,
) -> None:
    from afictl.comparison import list_costs, parse_methods
    from afictl.comparison.pipeline import require_comparison_folder, write_comparison_folder
    from afictl.presets import load_preset
    from afictl.training import HardwareSettings, launch

    resolved, contenders = load_preset(preset, settings), parse_methods(interpolators)
    if output:
        require_comparison_folder(output)
    fabric = launch(HardwareSettings(devices="1", precision=precision))
    prices = list_costs(fabric, resolved, contenders, data=data, weights=weights, baseline=baseline, progress=_meter())
    if output:
        write_comparison_folder(prices, output)
    _show(prices, output)


def _meter() -> ProgressDisplay:
    from rich.console import Console

    from afictl.progress import show_progress

    return partial(show_progress, Console(soft_wrap=True))


def _show(comparison: Comparison, folder: Path | None) -> None:
    from afictl.comparison import comparison_notes, comparison_tables

    wide_console().print(*comparison_tables(comparison))
    for line in comparison_notes(comparison):
        typer.echo(line)
    if folder:
        tables = (COMPARISON, COMPARISON_CSV, RUNS_CSV)
        typer.echo(f"tables: {', '.join(str(folder / name) for name in tables if (folder / name).is_file())}")
        if (folder / REPORT).is_file():
            typer.echo(f"report: {folder / 'report.html'}")
