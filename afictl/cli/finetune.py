"""``afictl finetune``: train a detector with any interpolator."""

from pathlib import Path
from typing import Annotated

import typer

from afictl.cli import options
from afictl.cli.runs import name_of, slugify


def finetune_command(
    context: typer.Context,
    preset: options.PresetName,
    data: options.Data,
    interpolator: options.Interpolator = None,
    weights: options.StartWeights = None,
    backbone_weights: options.BackboneWeights = None,
    partial: options.Partial = False,
    pseudo: Annotated[
        Path | None,
        typer.Option("--pseudo", help="Train on this file of 'afictl pseudo-label' too; evaluation stays on val."),
    ] = None,
    pseudo_weight: Annotated[
        float | None,
        typer.Option(
            "--pseudo-weight",
            min=0.0,
            callback=options.finite,
            help="Weight of its losses beside the labelled images' 1; default 1.",
        ),
    ] = None,
    pseudo_ratio: Annotated[
        float | None,
        typer.Option(
            "--pseudo-ratio",
            min=0.0,
            callback=options.finite,
            help="Its images for each labelled one in every batch; default 1.",
        ),
    ] = None,
    output: options.Output = None,
    settings: options.Settings = None,
    devices: options.Devices = "auto",
    nodes: options.Nodes = 1,
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    resume: options.Resume = False,
    debug: options.Debug = False,
) -> None:
    """Train a detector (stage 3), guides included.

    Writes a run folder: config.yaml, log.txt, metrics.jsonl, TensorBoard events, best.safetensors, last.safetensors
    and state.pt for --resume. The default folder is runs/PRESET-INTERPOLATOR.

    With --pseudo every batch holds both kinds of images; the loss is (labelled + W x pseudo) / (1 + W), each the loss
    of its own images, and the log shows the terms as they enter it.
    """
    from afictl.presets import load_preset
    from afictl.training import HardwareSettings, InitialWeights, PseudoLabels, finetune, launch
    from afictl.training.run_writer import require_free_folder

    if pseudo is None:
        options.refuse_flags(context, "without --pseudo FILE", "--pseudo-weight", "--pseudo-ratio")
    if weights is None:
        options.refuse_flags(context, "without --weights", "--partial")
    resolved = load_preset(preset, settings or ())
    kind = name_of(interpolator or resolved.interpolator.kind)
    folder = output or Path("runs") / f"{slugify(resolved.name)}-{kind}"
    require_free_folder(folder, resume)
    labels = None
    if pseudo:
        weight, ratio = (1.0 if value is None else value for value in (pseudo_weight, pseudo_ratio))
        labels = PseudoLabels(pseudo, weight, ratio)
    hardware, batch_size = HardwareSettings(devices, nodes, precision), resolved.train.batch_size
    fabric = launch(hardware, labels.split_batch(batch_size, hardware.num_processes) if labels else [batch_size])
    initial = InitialWeights(interpolator, weights, backbone_weights, partial)
    finetune(fabric, resolved, data, folder, initial, seed=seed, resume=resume, pseudo=labels)
    if fabric.is_global_zero:
        typer.echo(f"run: {folder}")
