"""``afictl compare``: equal training with several interpolators; tables of accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.batch_scaling import scaled_overrides
from afictl.cli.outputs import require_writable
from afictl.cli.preset_argument import load_buildable_preset
from afictl.cli.runs import slugify
from afictl.cli.tables import wide_console
from afictl.errors import UserError
from afictl.run_folder import COMPARISON, COMPARISON_CSV, REPORT, RUNS_CSV

if TYPE_CHECKING:
    from afictl.comparison import Comparison, Method, TuningGrid
    from afictl.comparison.experiment.execution import TrainRuns
    from afictl.comparison.experiment.ray_cluster import Place
    from afictl.presets import Preset
    from afictl.progress import ProgressDisplay

_DEFAULT_KINDS = ("nearest", "bilinear", "bicubic", "afi")
_INITIAL_SEEDS = 5
"""Seeds to begin with where seeds are added; fewer give intervals that cover much less than 95 %."""
_RUN_FLAGS = (
    "--backbone-weights",
    "--ema",
    "--seeds",
    "--until",
    "--max-seeds",
    "--seed",
    "--tune",
    "--scale-lr",
    "--spread",
    "--ray",
    "--devices",
    "--nodes",
    "--force-unlock",
)
_TRAINING_FLAGS = ("--preset", "--interpolators", "--weights", "--set", *_RUN_FLAGS)

_Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--runs",
        metavar="RUN...",
        help="Compare these finished runs of finetune or compare, without training. NAME=RUN names the method of a run "
        "that differs from others in something else than the interpolator.",
    ),
]
_FurtherRuns = Annotated[list[str] | None, typer.Argument(metavar="RUN", hidden=True)]
_Interpolators = Annotated[
    str | None,
    typer.Option(
        "--interpolators",
        help=f"Kinds, and runs of pretrain as NAME=RUN, e.g. nearest,afi=RUN. Default: {','.join(_DEFAULT_KINDS)}.",
    ),
]
_Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        min=1,
        max=1000,
        help="Runs of each interpolator, with consecutive seeds from --seed; with --until those to begin with. "
        f"Default: 1, with --until {_INITIAL_SEEDS}.",
    ),
]
_Until = Annotated[
    float | None,
    typer.Option(
        "--until",
        min=0.01,
        metavar="POINTS",
        callback=options.require_finite,
        help="Add seeds to each interpolator, and to the baseline, until the 95 % interval of its difference in box AP "
        "has at most this half-width.",
    ),
]
_MaxSeeds = Annotated[int, typer.Option("--max-seeds", min=2, max=1000, help="Largest number of seeds with --until.")]
_Baseline = Annotated[
    str | None,
    typer.Option("--baseline", help="Method that the others are compared with. Default: nearest, or else the first."),
]
_OnlyCost = Annotated[
    bool,
    typer.Option("--only-cost", help="Measure only costs, on one device; --data is optional."),
]
_Tune = Annotated[
    str | None,
    typer.Option(
        "--tune",
        metavar="KEY=VALUE,VALUE,...",
        help="Choose one of these values of a key of the recipe for each method, on a part of the training images,"
        " e.g. train.lr=0.001,0.003.",
    ),
]
_Spread = Annotated[
    bool, typer.Option("--spread", help="Train runs in parallel, each on one of the --devices, instead of each on all.")
]
_Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="With --spread: train on the machines of a Ray cluster, HOST:PORT, or 'auto' for that of this machine.",
    ),
]


@dataclass(frozen=True)
class _CommonOptions:
    """Options of all three kinds of comparison: new runs, existing runs, costs only."""

    data: Path | None
    baseline: str | None
    output: Path | None
    precision: str


@dataclass(frozen=True)
class _TrainingOptions:
    """Options of a comparison of new runs."""

    seeds: Sequence[int]
    until: float | None
    max_seeds: int
    tuning: TuningGrid | None
    weights: Path | None
    backbone_weights: Path | None
    averaged: bool | None
    devices: str
    nodes: int | None
    spread: Place | None
    """Place of parallel runs; None for ``--devices`` of each run."""
    force_unlock: bool


def compare_command(
    context: typer.Context,
    further_runs: _FurtherRuns = None,
    preset: Annotated[str | None, options.PRESET] = None,
    data: Annotated[Path | None, options.DATA] = None,
    interpolators: _Interpolators = None,
    seeds: _Seeds = None,
    until: _Until = None,
    max_seeds: _MaxSeeds = 20,
    tune: _Tune = None,
    baseline: _Baseline = None,
    runs: _Runs = None,
    only_cost: _OnlyCost = False,
    weights: options.InitialDetector = None,
    backbone_weights: options.BackboneWeights = None,
    averaged: options.Averaged = None,
    output: options.Output = None,
    overrides: options.Overrides = None,
    scale_rate: options.ScaleRate = False,
    devices: options.Devices = "auto",
    spread: _Spread = False,
    ray: _Ray = None,
    nodes: options.Nodes = None,
    precision: options.PrecisionOfComparison = None,
    seed: options.Seed = 0,
    force_unlock: options.ForceUnlock = False,
    debug: options.Debug = False,
) -> None:
    """Fine-tune with several interpolators under equal settings.

    For each seed, data order, augmentation, schedule and the initial weights of all other parts are the same. Writes a
    run for each interpolator and seed, NAME/seedK, and report.html, comparison.json, comparison.csv and runs.csv, by
    default to runs/compare-PRESET. The same command continues an interrupted comparison, also with further
    interpolators or seeds; finished runs are not repeated. Copies of the command that run at once, on one or several
    machines, share the runs.

    Exit code 0: all runs are finished; 1: some failed, and the same command tries them again; 2: a mistake, reported
    before training.
    """
    common = _CommonOptions(data, baseline, output, precision or ("auto" if only_cost else "32-true"))
    folders, names = _parse_runs(runs or [], further_runs or [])
    if folders:
        options.refuse_flags(context, "with --runs, which trains nothing", *_TRAINING_FLAGS, "--only-cost")
        _compare_existing(folders, names, common)
        return
    if preset is None:
        raise UserError("give --preset and --data, or --runs with finished runs; see 'afictl compare --help'")
    if only_cost:
        options.refuse_flags(context, "with --only-cost, which trains nothing and measures on one device", *_RUN_FLAGS)
    elif data is None:
        raise UserError("give --data; it is optional only with --only-cost")
    from afictl.cli.interpolator_options import require_compared_options
    from afictl.comparison import parse_methods, parse_tuning
    from afictl.presets import overridden_values

    settings = scaled_overrides(preset, overrides or []) if scale_rate else overrides or []
    resolved = load_buildable_preset(preset, settings)
    methods = parse_methods(interpolators or ",".join(f"kind:{kind}" for kind in _DEFAULT_KINDS))
    require_compared_options(resolved, overrides or [], methods)
    if only_cost:
        _list_costs(resolved, methods, weights, common)
        return
    if until is None:
        options.refuse_flags(context, "without --until", "--max-seeds")
    if not spread:
        options.refuse_flags(context, "without --spread", "--ray")
    grid = parse_tuning(tune, resolved) if tune is not None else None
    if grid and grid.key in overridden_values(overrides or []):
        raise UserError(f"--set {grid.key}: has no effect with --tune {tune}; give one of them")
    if grid and grid.key == "train.lr" and scale_rate:
        raise UserError(f"--scale-lr: scales the preset's learning rate; leave it out, or --tune {tune}")
    initial_seeds = range(seed, seed + (seeds or (1 if until is None else _INITIAL_SEEDS)))
    start = (weights, backbone_weights, averaged)
    place = _place(devices, nodes, ray) if spread else None
    training = _TrainingOptions(initial_seeds, until, max_seeds, grid, *start, devices, nodes, place, force_unlock)
    _train(resolved, methods, training, common)


def _parse_runs(runs: list[str], further_runs: list[str]) -> tuple[list[Path], dict[Path, str]]:
    """Parse ``--runs A B C``, of which B and C are arguments, or ``--runs A,B,C``, each A or NAME=A.

    Returns:
        The folders, and the method name by folder for those that have one.
    """
    if further_runs and not runs:
        raise UserError(
            f"unexpected argument '{further_runs[0]}'; finished runs are compared with --runs {further_runs[0]} ..."
        )
    folders, names = [], {}
    for part in (part for text in [*runs, *further_runs] for part in _split_runs(text)):
        name, folder = _named_run(part)
        folders.append(folder)
        if name:
            names[folder] = name
    if duplicates := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(f"--runs: {duplicates[0]} is given twice")
    return folders, names


def _split_runs(text: str) -> list[str]:
    """The runs in one word of ``--runs``, separated by commas; a path with commas is one run."""
    parts = text.split(",")
    if not Path(text).exists():
        return parts
    if len(parts) > 1 and all(Path(part).exists() for part in parts):
        raise UserError(f"--runs {text}: is a run and also a list of runs; name runs one by one, --runs A B")
    return [text]


def _named_run(part: str) -> tuple[str, Path]:
    """Name, empty for none, and folder of ``RUN`` or ``NAME=RUN``; an existing path with ``=`` is a run."""
    name, separator, folder = part.partition("=")
    if not separator or "/" in name:
        return "", Path(part)
    if Path(part).exists():
        if folder and Path(folder).exists():
            raise UserError(
                f"--runs {part}: is a run and also NAME=RUN; write ./{part} for one, {name}=./{folder} for the other"
            )
        return "", Path(part)
    if not name.strip() or not folder:
        raise UserError(f"--runs {part}: write NAME=RUN, with a name and a run")
    return name.strip(), Path(folder)


def _train(preset: Preset, methods: Sequence[Method], training: _TrainingOptions, common: _CommonOptions) -> None:
    from afictl.comparison import compare
    from afictl.comparison.experiment.preconditions import precision_of_comparison
    from afictl.comparison.experiment.ray_tasks import train_as_tasks
    from afictl.comparison.experiment.sequential import train_in_turn
    from afictl.folder_lock import remove_locks
    from afictl.training import HardwareSettings, launch, launch_single

    assert common.data is not None
    output = common.output or Path("runs") / f"compare-{slugify(preset.name)}"
    precision = precision_of_comparison(common.precision, output)
    fabric = (
        launch_single(precision)
        if training.spread
        else launch(HardwareSettings(training.devices, training.nodes, precision), [preset.train.micro_batch_size])
    )
    fabric.print_precision_note()
    if training.force_unlock:
        remove_locks(output, fabric.global_rank, fabric.world_size)
    train_runs: TrainRuns | None = None
    if training.spread:
        train_runs = partial(train_as_tasks, training.spread)
    elif fabric.world_size == 1:  # in separate processes, of which one may crash
        train_runs = train_in_turn
    if len(methods) == 1:
        fabric.print(
            f"{methods[0].name} is the only method: it is trained and measured without a comparison; name others in"
            " --interpolators, also later with the same command"
        )
    outcome = compare(
        fabric,
        preset,
        common.data,
        methods,
        output,
        seeds=training.seeds,
        until=training.until,
        max_seeds=training.max_seeds,
        baseline=common.baseline,
        weights=training.weights,
        backbone_weights=training.backbone_weights,
        averaged=training.averaged,
        tuning=training.tuning,
        train_runs=train_runs,
        progress=_progress(),
    )
    if outcome.comparison is not None:
        _print(outcome.comparison, output)
    if outcome.failures:
        if fabric.is_global_zero:
            _print_failures(outcome.failures)
        raise typer.Exit(1)


def _place(devices: str, nodes: int | None, address: str | None) -> Place:
    from afictl.comparison.experiment.ray_cluster import Place

    if nodes is not None:
        raise UserError(f"--nodes {nodes}: with --spread the machines are those of --ray ADDRESS; leave it out")
    place = Place(devices, address)
    place.check()
    return place


def _compare_existing(folders: list[Path], names: dict[Path, str], common: _CommonOptions) -> None:
    from afictl.comparison import compare_runs
    from afictl.training import launch_single

    output = common.output or Path("runs") / "compare-runs"
    require_writable(output, "--output")
    fabric = launch_single(common.precision)
    fabric.print_precision_note()
    comparison = compare_runs(
        fabric, folders, output, names=names, data=common.data, baseline=common.baseline, progress=_progress()
    )
    _print(comparison, output)


def _list_costs(preset: Preset, methods: Sequence[Method], weights: Path | None, common: _CommonOptions) -> None:
    from afictl.comparison import list_costs
    from afictl.comparison.pipeline import require_comparison_folder, write_comparison_folder
    from afictl.folder_lock import locked_folder
    from afictl.training import launch_single

    with locked_folder(common.output) if common.output else nullcontext():
        if common.output:
            require_comparison_folder(common.output)
        fabric = launch_single(common.precision)
        fabric.print_precision_note()
        comparison = list_costs(
            fabric, preset, methods, data=common.data, weights=weights, baseline=common.baseline, progress=_progress()
        )
        if common.output:
            write_comparison_folder(comparison, common.output)
    _print(comparison, common.output)


def _progress() -> ProgressDisplay:
    from rich.console import Console

    from afictl.progress import show_progress

    return partial(show_progress, Console(soft_wrap=True))


def _print_failures(failures: dict[str, str]) -> None:
    reasons = "; ".join(f"{run}: {reason}" for run, reason in failures.items())
    count = f"{len(failures)} run{'s' * (len(failures) > 1)}"
    typer.echo(f"error: {count} failed, the same command tries again: {reasons}", err=True)


def _print(comparison: Comparison, folder: Path | None) -> None:
    from afictl.comparison import comparison_notes, comparison_tables

    wide_console().print(*comparison_tables(comparison))
    for line in comparison_notes(comparison):
        typer.echo(line)
    if folder:
        files = [folder / name for name in (COMPARISON, COMPARISON_CSV, RUNS_CSV) if (folder / name).is_file()]
        typer.echo(f"tables: {', '.join(map(str, files))}")
        if (folder / REPORT).is_file():
            typer.echo(f"report: {folder / REPORT}")
