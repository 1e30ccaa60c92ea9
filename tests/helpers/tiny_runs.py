"""Settings of detectors that train in a second, and the contents of their runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from afictl.presets import Preset
from afictl.training import loop

STAGES = ("train", "stage1", "stage2")
SMALL = (
    "backbone.name=test_resnet",
    "neck.channels=16",
    "detector.fc_width=16",
    "detector.rpn_batch=16",
    "detector.roi_batch=16",
    "detector.max_detections=10",
    "input.min_sizes=[64]",
    "input.test_size=64",
    "interpolator.options={blocks: 1, growth: 4}",
    "loader.workers=0",
    *(f"{stage}.{key}" for stage in STAGES for key in ("steps=4", "batch_size=2", "eval_every=4")),
)


def set_flags(settings: Iterable[str] = SMALL) -> list[str]:
    """``settings`` on a command line, ``--set`` before each, without those of the interpolator, of any kind there."""
    return [word for setting in settings if not setting.startswith("interpolator.") for word in ("--set", setting)]


def without_kind(settings: Iterable[str]) -> list[str]:
    """``settings`` for pre-training, which takes the kind of the interpolator as an argument."""
    return [setting for setting in settings if not setting.startswith("interpolator.kind")]


def with_steps(preset: Preset, **values: object) -> Preset:
    """The preset with other values in its recipe ``train``."""
    return preset.model_copy(update={"train": preset.train.model_copy(update=values)})


def assert_same_states(run: Path, other: Path, parts: Iterable[str]) -> None:
    """``parts`` of the two runs' saved states are equal bit for bit."""
    states = [torch.load(folder / "state.pt", weights_only=True) for folder in (run, other)]
    for part in parts:
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0, msg=part)


@contextmanager
def interrupted_at_batch(number: int) -> Iterator[None]:
    """Training inside is interrupted as by Ctrl-C when it has loaded its batch ``number``, counted from 1."""
    steps: list[int] = []
    begin_step = loop._seed_step

    def interrupt(seed: int, step: int) -> None:
        steps.append(step)
        if len(steps) == number:
            raise KeyboardInterrupt
        begin_step(seed, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_seed_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            yield


def drop_states(folder: Path, keep: Path | None = None) -> None:
    """Remove resumable states, which are three times as large as the weights, except those below ``keep``."""
    for state in folder.rglob("state.pt"):
        if keep is None or not state.is_relative_to(keep):
            state.unlink()
