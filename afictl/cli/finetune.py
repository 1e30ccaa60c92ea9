"""``afictl finetune``: train a detector with any interpolator."""

from pathlib import Path

import typer

from afictl.cli import options
from afictl.cli.runs import name_of, tidy


def finetune(
    preset: options.PresetName,
    data: options.Data,
    interpolator: options.Interpolator = None,
    weights: options.StartWeights = None,
    backbone_weights: options.BackboneWeights = None,
    partial: options.Partial = False,
    output: options.Output = None,
    settings: options.Settings = None,
    devices: options.Devices = "auto",
    nodes: options.Nodes = 1,
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    resume: options.Resume = False,
    debug: options.Debug = False,
) -> None:
    """Train a detector (stage 3), a guide included.

    Writes a run folder: config.yaml, log.txt, metrics.jsonl, TensorBoard events, best.safetensors, last.safetensors
    and state.pt for --resume. The default folder is runs/PRESET-INTERPOLATOR.
    """
    from afictl.presets import load_preset
    from afictl.training import Hardware, Start, finetune, launch

    resolved = load_preset(preset, settings or ())
    kind = name_of(interpolator or resolved.interpolator.kind)
    folder = output or Path("runs") / f"{tidy(resolved.name)}-{kind}"
    fabric = launch(Hardware(devices, nodes, precision), [resolved.train.batch_size])
    start = Start(interpolator, weights, backbone_weights, partial)
    finetune(fabric, resolved, data, folder, start, seed=seed, resume=resume)
    if fabric.is_global_zero:
        typer.echo(f"run: {folder}")
