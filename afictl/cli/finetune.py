"""``afictl finetune``: train a detector with any interpolator."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.batch_scaling import scaled_overrides
from afictl.cli.runs import name_of, slugify


def finetune_command(
    context: typer.Context,
    preset: Annotated[str, options.PRESET],
    data: Annotated[Path, options.DATA],
    interpolator: Annotated[
        str | None,
        typer.Option("--interpolator", help="Kind (nearest, ..., afi), run of pretrain, or interpolator file."),
    ] = None,
    weights: options.InitialDetector = None,
    backbone_weights: options.BackboneWeights = None,
    averaged: options.Averaged = None,
    partial: options.Partial = False,
    pseudo: Annotated[
        Path | None,
        typer.Option("--pseudo", help="Annotations of 'afictl pseudo-label' to train on too; evaluation stays on val."),
    ] = None,
    pseudo_weight: Annotated[
        float | None,
        typer.Option(
            "--pseudo-weight",
            min=0.0,
            callback=options.require_finite,
            help="Weight of the losses of pseudo-labelled images; labelled images have 1. Default: 1.",
        ),
    ] = None,
    pseudo_ratio: Annotated[
        float | None,
        typer.Option(
            "--pseudo-ratio",
            min=0.0,
            callback=options.require_finite,
            help="Pseudo-labelled images per labelled image in every batch. Default: 1.",
        ),
    ] = None,
    output: options.Output = None,
    overrides: options.Overrides = None,
    scale_rate: options.ScaleRate = False,
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
    """Train a detector, such as a guide (stage 3).

    Writes a run folder: config.yaml, log.txt, metrics.jsonl, TensorBoard events or what --log names,
    best.safetensors, last.safetensors and state.pt for --resume. The default folder is runs/PRESET-INTERPOLATOR.

    With --pseudo every batch has labelled and pseudo-labelled images, and the loss is (labelled + W x pseudo) / (1 + W)
    with the weight W; losses are logged as these weighted terms.
    """
    from afictl.cli.interpolator_options import load_preset_for
    from afictl.folder_lock import remove_locks
    from afictl.training import HardwareSettings, InitialWeights, PseudoLabels, finetune, launch
    from afictl.training.metric_loggers import require_loggers
    from afictl.training.precision import precision_of_runs
    from afictl.training.run_writer import require_free_folder

    require_loggers(loggers or ())

    if pseudo is None:
        options.refuse_flags(context, "without --pseudo FILE", "--pseudo-weight", "--pseudo-ratio")
    if weights is None:
        options.refuse_flags(context, "without --weights", "--partial")
    initial = InitialWeights(interpolator, weights, backbone_weights, partial, averaged)
    if not (weights or backbone_weights or initial.is_trained_interpolator):
        options.refuse_flags(context, "without a checkpoint to start from, such as --weights", "--ema")
    settings = scaled_overrides(preset, overrides or ()) if scale_rate else overrides or ()
    resolved = load_preset_for(preset, settings, interpolator)
    name = name_of(interpolator) if interpolator and initial.is_trained_interpolator else resolved.interpolator.kind
    folder = output or Path("runs") / f"{slugify(resolved.name)}-{name}"
    require_free_folder(folder, resume)
    labels = None
    if pseudo:
        weight, ratio = (1.0 if value is None else value for value in (pseudo_weight, pseudo_ratio))
        labels = PseudoLabels(pseudo, weight, ratio)
    hardware = HardwareSettings(devices, nodes, precision_of_runs(precision, [folder]), compile_parts)
    recipe = resolved.train
    if labels:
        labels.split_batch(recipe.batch_size, hardware.num_processes, recipe.accumulate)
    fabric = launch(hardware, [recipe.micro_batch_size])
    if force_unlock:
        remove_locks(folder, fabric.global_rank, fabric.world_size)
    finetune(fabric, resolved, data, folder, initial, seed=seed, resume=resume, pseudo=labels, loggers=loggers or ())
    if fabric.is_global_zero:
        typer.echo(f"run: {folder}")
