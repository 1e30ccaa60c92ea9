"""Pre-training of an interpolator: stages 1 and 2 one after the other, each a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric

from afictl.backbones.checkpointing import checkpoint_module
from afictl.discriminator import PatchDiscriminator
from afictl.distributed import run_on_rank_zero
from afictl.errors import UserError, did_you_mean, one_line
from afictl.files import remove_temporary_files, remove_unfinished_weights, require_no_link
from afictl.folder_lock import locked_folder
from afictl.interpolators import Interpolator, build_configured, interpolator_kinds, learned_kinds
from afictl.presets import Preset, overridden_values
from afictl.run_folder import INTERPOLATOR, STATE, absolute_path, is_vacant
from afictl.run_records import read_config
from afictl.tensor_files import save_tensors
from afictl.training.hardware import hardware_record
from afictl.training.image_check import ImageCheck
from afictl.training.metric_loggers import DEFAULT_LOGGERS
from afictl.training.pretraining_inputs import PretrainingInputs, log_beginning, read_pretraining_inputs
from afictl.training.process_count import process_dependence
from afictl.training.run_inputs import (
    InputFile,
    inputs_record,
    read_recorded_inputs,
    recorded_inputs,
)
from afictl.training.run_writer import RunWriter, describe_other_settings
from afictl.training.splits import Splits, in_label_order
from afictl.training.stage1 import train_stage1
from afictl.training.stage2 import build_student, train_stage2
from afictl.weights.saved_state import read_saved_state

_SETTINGS_OF_BOTH = ("data.", "guide.", "averaged.", "interpolator.", "preset.interpolator.")
"""Prefixes of settings in which stage 2 must agree with the stage 1 that it continues."""


def pretrain(
    fabric: Fabric,
    guide_path: Path,
    data: Path,
    output: Path,
    *,
    kind: str = "afi",
    stages: Sequence[int] = (1, 2),
    overrides: Iterable[str] = (),
    seed: int = 0,
    resume: bool = False,
    averaged: bool | None = None,
    loggers: Sequence[str] = DEFAULT_LOGGERS,
) -> Path:
    """Train an interpolator on the features of a guide.

    ``output/stage1`` and ``output/stage2`` become runs; ``output/interpolator.safetensors`` is that of the last of
    ``stages``.

    Args:
        guide_path: run or checkpoint of a trained detector, whose preset holds the recipes ``stage1`` and ``stage2``.
        kind: of the interpolator, one with parameters.
        stages: (1,), (2,) to continue after a finished stage 1 in ``output``, or both.
        overrides: settings on top of the guide's preset, such as ``stage1.steps=100``; ``interpolator.options`` are
            those of the interpolator to train.
        averaged: of the guide; as in ``read_checkpoint``.
        loggers: names of what the metrics are logged to, of ``LOGGER_NAMES``.

    Returns:
        The interpolator's file.

    Raises:
        UserError: guide, data or output that do not fit, an output that another process writes to, or a kind without
            parameters.
    """
    check_kind(kind, overrides := list(overrides))
    with locked_folder(output, fabric.global_rank, fabric.world_size):
        return _pretrain(fabric, guide_path, data, output, kind, stages, overrides, seed, resume, averaged, loggers)


def _pretrain(
    fabric: Fabric,
    guide_path: Path,
    data: Path,
    output: Path,
    kind: str,
    stages: Sequence[int],
    overrides: list[str],
    seed: int,
    resume: bool,
    averaged: bool | None,
    loggers: Sequence[str],
) -> Path:
    if 1 not in stages and not (resume and (output / "stage2" / STATE).is_file()):
        _require_stage1(output / "stage1")
    inputs = read_pretraining_inputs(fabric, guide_path, data, kind, stages, overrides, averaged)
    settings = _settings(fabric, inputs.preset, kind, data, guide_path, seed, averaged)
    for number in stages:
        _train_stage(
            fabric, number, inputs, settings, output, kind, seed, resume, loggers, is_first=number == stages[0]
        )
    result = output / f"stage{stages[-1]}" / INTERPOLATOR
    run_on_rank_zero(lambda: _copy_interpolator(result, output / INTERPOLATOR), fabric.global_rank, fabric.world_size)
    return output / INTERPOLATOR


def _train_stage(
    fabric: Fabric,
    number: int,
    inputs: PretrainingInputs,
    settings: Mapping[str, object],
    output: Path,
    kind: str,
    seed: int,
    resume: bool,
    loggers: Sequence[str],
    *,
    is_first: bool,
) -> None:
    """Train stage ``number`` and write its run; ``is_first``: it is the first of this command."""
    preset, guide, files = inputs.preset, inputs.guide, inputs.files
    require_no_link(folder := output / f"stage{number}", output)
    recorded = recorded_inputs(fabric, folder) if resume else None
    classes = recorded.classes if recorded and recorded.classes else inputs.loaded.classes
    splits = _in_label_order(inputs.splits, classes, inputs.guide_path)
    config = {"command": f"pretrain, stage {number}", **settings, **inputs_record(classes, files)}
    interpolator, discriminator = _build_networks(preset, kind, seed)
    if number == 2 and not (resume and (folder / STATE).is_file()):
        _require_inputs_of_stage1(fabric, output / "stage1", config, files)
        _load_stage1(output / "stage1", preset, interpolator, discriminator)
    has_begun = is_first or not is_vacant(folder)
    with locked_folder(folder, fabric.global_rank, fabric.world_size):
        dependence = process_dependence(preset) if number == 2 else ""  # the guide of stage 1 is not trained
        run = RunWriter(fabric, folder, config, resume and has_begun, dependence, loggers)
        if recorded:
            recorded.require_unchanged(files)
        log_beginning(run, number, inputs, recorded, with_inputs=is_first)
        with ImageCheck(fabric, run, files, splits):
            if number == 1:
                train_stage1(fabric, run, guide, preset, interpolator, discriminator, splits, seed)
            else:
                student = build_student(guide, preset, interpolator)
                train_stage2(fabric, run, guide, student, discriminator, splits, seed)


def _settings(
    fabric: Fabric, preset: Preset, kind: str, data: Path, guide_path: Path, seed: int, averaged: bool | None
) -> dict[str, object]:
    """Settings of all stages, for ``config.yaml``."""
    return {
        "preset": preset.with_interpolator(kind, preset.interpolator.options).model_dump(mode="json"),
        "data": absolute_path(data),
        "guide": absolute_path(guide_path),
        **({} if kind == "afi" else {"interpolator": kind}),  # runs from before there were other kinds have no key
        **({} if averaged is None else {"averaged": averaged}),
        "seed": seed,
        "hardware": hardware_record(fabric),
    }


def _copy_interpolator(source: Path, target: Path) -> None:
    remove_temporary_files(target.parent)
    remove_unfinished_weights(target.parent)
    interpolator = Interpolator.load(source)
    save_tensors(target, interpolator.state_dict(), interpolator.description)


def check_kind(kind: str, overrides: Iterable[str]) -> None:
    """Check the kind to train; ``overrides`` cannot change it.

    Raises:
        UserError: no interpolator with parameters has this name, or an override sets ``interpolator.kind``.
    """
    if kind not in learned_kinds():
        if kind in interpolator_kinds():
            kinds = ", ".join(learned_kinds())
            raise UserError(f"--interpolator {kind}: has no parameters to train; kinds with parameters are {kinds}")
        raise UserError(f"--interpolator {kind}: not a kind with parameters{did_you_mean(kind, learned_kinds())}")
    values = overridden_values(overrides)
    if "interpolator.kind" in values:
        raise UserError(
            f"--set interpolator.kind: has no effect here; choose the kind to train: --interpolator"
            f" {values['interpolator.kind']}"
        )


def _build_networks(preset: Preset, kind: str, seed: int) -> tuple[Interpolator, PatchDiscriminator]:
    torch.manual_seed(seed)
    channels = preset.neck.channels
    config = preset.interpolator.model_copy(update={"kind": kind})
    interpolator = build_configured(config, channels)
    if config.checkpointing:
        checkpoint_module(interpolator)
    return interpolator, PatchDiscriminator(channels)


def _in_label_order(splits: Splits, classes: tuple[str, ...], guide: Path) -> Splits:
    try:
        return in_label_order(splits, classes, f"the guide {guide}")
    except UserError as error:
        raise UserError(f"{error}; fine-tune the guide on this dataset first") from None


def _require_stage1(folder: Path) -> None:
    if not (folder / STATE).is_file():
        raise UserError(f"{folder}: stage 2 starts from a finished stage 1, which is not there; add --stages 1,2")


def _require_inputs_of_stage1(
    fabric: Fabric, folder: Path, config: Mapping[str, object], files: Iterable[InputFile]
) -> None:
    """Check that stage 2, of settings ``config``, has the guide, the data and the interpolator of stage 1.

    Raises:
        UserError: on all ranks: it does not.
    """

    def check() -> None:
        recorded = read_recorded_inputs(folder)
        if recorded is None:  # of an earlier version, without settings
            return
        differences = describe_other_settings(read_config(recorded.source), config, _SETTINGS_OF_BOTH)
        if differences:
            raise UserError(
                f"{recorded.source}: stage 1 was trained with other settings: {differences}; give stage 2 the same, or"
                " train both stages with another --output"
            )
        recorded.require_unchanged(files)

    run_on_rank_zero(check, fabric.global_rank, fabric.world_size)


def _load_stage1(folder: Path, preset: Preset, interpolator: Interpolator, discriminator: PatchDiscriminator) -> None:
    """Load the weights of both networks at the end of stage 1."""
    _require_stage1(folder)
    path = folder / STATE
    state = read_saved_state(path)
    steps = state.get("step")
    try:
        if type(steps) is not int:
            raise ValueError(f"'step' is {steps!s:.40}")
        for name, network in {"generator": interpolator, "discriminator": discriminator}.items():
            weights = state.get(name)
            if not isinstance(weights, dict):
                raise ValueError(f"it has no weights '{name}'")
            network.load_state_dict({str(key).removeprefix("module."): value for key, value in weights.items()})
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not the state of this stage 1 ({one_line(error):.200}); train it again") from None
    if steps < preset.stage1.steps:
        raise UserError(
            f"{folder}: stage 1 stopped at step {steps} of {preset.stage1.steps}; finish it with --stages 1,2 --resume"
        )
