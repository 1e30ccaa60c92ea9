"""``afictl pretrain``: train an interpolator on a guide's features."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.runs import data_of_detector, name_of
from afictl.errors import UserError


def pretrain_command(
    guide: Annotated[
        Path,
        typer.Option("--guide", help="Trained detector that gives the target features: run folder or checkpoint."),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Dataset. Default: the guide's."),
    ] = None,
    interpolator: Annotated[
        str,
        typer.Option("--interpolator", help="Kind to train: any with parameters, such as afi or carafe."),
    ] = "afi",
    stages: Annotated[str, typer.Option("--stages", help="1, 2 or 1,2; stage 2 continues stage 1.")] = "1,2",
    averaged: options.Averaged = None,
    output: options.Output = None,
    overrides: options.Overrides = None,
    devices: options.Devices = "auto",
    nodes: options.Nodes = None,
    precision: options.Precision = "32-true",
    compile_parts: options.Compile = False,
    loggers: options.Loggers = None,
    seed: options.Seed = 0,
    resume: options.Resume = False,
    force_unlock: options.ForceUnlock = False,
    debug: options.Debug = False,
) -> None:
    """Train an interpolator adversarially (stages 1 and 2).

    Stage 1 reports the distance of enlarged features to the guide's on held-out images, also for nearest, bilinear and
    bicubic. Writes the runs stage1 and stage2, and interpolator.safetensors for --interpolator. The default folder is
    runs/pretrain-GUIDE, or runs/pretrain-GUIDE-KIND for kinds other than afi. The recipes are the keys stage1.* and
    stage2.* of the guide's preset, the options of the interpolator interpolator.options.
    """
    if stages not in ("1", "2", "1,2"):
        raise UserError(f"--stages {stages}: write 1, 2 or 1,2")
    from afictl.data.layouts import find_split
    from afictl.folder_lock import remove_locks
    from afictl.tensor_files import check_file
    from afictl.training import HardwareSettings, launch, pretrain
    from afictl.training.metric_loggers import require_loggers
    from afictl.training.precision import precision_of_runs
    from afictl.training.pretraining import check_kind
    from afictl.training.run_writer import require_free_folder
    from afictl.weights.checkpoint import find_checkpoint

    require_loggers(loggers or ())
    interpolator = interpolator.removeprefix("kind:")
    check_kind(interpolator, overrides or ())
    numbers = [int(number) for number in stages.split(",")]
    suffix = "" if interpolator == "afi" else f"-{interpolator}"
    folder = output or Path("runs") / f"pretrain-{name_of(guide)}{suffix}"
    runs = [folder / f"stage{number}" for number in numbers]
    for run in runs:
        require_free_folder(run, resume)
    check_file(find_checkpoint(guide))
    source = data or data_of_detector(guide)
    find_split(source, "train")
    hardware = HardwareSettings(devices, nodes, precision_of_runs(precision, runs), compile_parts)
    fabric = launch(hardware, _batch_sizes(guide, overrides or [], numbers) if hardware.num_processes > 1 else ())
    if force_unlock:
        remove_locks(folder, fabric.global_rank, fabric.world_size)
    result = pretrain(
        fabric,
        guide,
        source,
        folder,
        kind=interpolator,
        stages=numbers,
        overrides=overrides or (),
        seed=seed,
        resume=resume,
        averaged=averaged,
        loggers=loggers or (),
    )
    if fabric.is_global_zero:
        typer.echo(f"interpolator: {result}")


def _batch_sizes(guide: Path, overrides: list[str], stages: list[int]) -> list[int]:
    from afictl.presets import parse_preset
    from afictl.weights import load_detector

    preset = parse_preset(load_detector(guide).preset.model_dump(), overrides, source=str(guide))
    recipes = {1: preset.stage1, 2: preset.stage2}
    return [recipes[number].batch_size for number in stages]
