"""Commands of ``afictl`` that train the runs of one setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afictl.errors import UserError
from benchmarks.evidence.methods import PRETRAINED, PRETRAININGS
from benchmarks.evidence.settings import SETTINGS, Setting


@dataclass(frozen=True)
class Paths:
    """Folder of all runs, and the inputs that the user provides."""

    output: Path
    data: Path | None
    backbone_weights: Path | None

    def guide(self, setting: Setting) -> Path:
        """Run of the guide."""
        return self._shared(setting) / "guide"

    def pretraining(self, setting: Setting, name: str) -> Path:
        """Run of a pre-training."""
        return self._shared(setting) / f"pretrain-{name}"

    def comparison(self, setting: Setting) -> Path:
        """Comparison that holds the fine-tuned runs of all tables."""
        return self.output / setting.name / "compare"

    def training_data(self, setting: Setting) -> Path:
        """Dataset of the runs of a table: all images of ``dataset``, or those that keep their annotations."""
        if setting.labelled_fraction < 1:
            return self.output / setting.name / "data"
        return self.dataset(setting)

    def dataset(self, setting: Setting) -> Path:
        """Dataset of the guide: generated, tiles of that of the user, or the latter itself.

        Raises:
            UserError: the user has to provide it.
        """
        if setting.generated or setting.tiles:
            return self._shared(setting) / "data"
        return self.user_data(setting)

    def user_data(self, setting: Setting) -> Path:
        """Dataset that the user provides.

        Raises:
            UserError: it is absent.
        """
        if self.data is None:
            raise UserError(f"{setting.name}: give --data, a dataset in COCO layout")
        return self.data

    def _shared(self, setting: Setting) -> Path:
        return self.output / (setting.guide_of or setting.name)


def table_commands(setting: Setting, methods: Sequence[str], seeds: int, paths: Paths) -> list[list[str]]:
    """Arguments of ``afictl`` for the runs of a table, in the order in which they run.

    Raises:
        UserError: the setting needs ``--data`` or ``--backbone-weights``, and it is absent.
    """
    commands = [*_guide_commands(setting, paths)]
    for method in methods:
        if method in PRETRAINED:
            source = SETTINGS[PRETRAINED[method].setting or setting.name]
            commands += [*_guide_commands(source, paths), _pretrain_command(source, PRETRAINED[method].run, paths)]
    named = ",".join(_interpolator(setting, method, paths) for method in methods)
    data = paths.training_data(setting)
    if setting.labelled_fraction < 1 and not data.exists():
        fraction = ["--fraction", str(setting.labelled_fraction)]
        commands.append(["data", "subset", str(paths.dataset(setting)), str(data), *fraction])
    flags = ["--data", str(data), "--weights", str(paths.guide(setting)), "--interpolators", named]
    output = ["--seeds", str(seeds), "--output", str(paths.comparison(setting))]
    commands.append(["compare", *setting.training_flags(setting.steps), *flags, *output])
    return [list(command) for command in dict.fromkeys(map(tuple, commands))]


def _guide_commands(setting: Setting, paths: Paths) -> list[list[str]]:
    """Generation of the data and training of the guide."""
    setting = SETTINGS[setting.guide_of or setting.name]
    data = paths.dataset(setting)
    if setting.needs_backbone_weights and paths.backbone_weights is None:
        raise UserError(f"{setting.name}: give --backbone-weights, the ImageNet weights of {setting.preset}")
    weights = ["--backbone-weights", str(paths.backbone_weights)] if setting.needs_backbone_weights else []
    flags = ["--data", str(data), "--interpolator", "nearest", "--output", str(paths.guide(setting)), "--resume"]
    training = ["finetune", *setting.training_flags(setting.guide_steps), *weights, *flags]
    if setting.generated and not data.exists():
        return [["data", "shapes", str(data), *setting.generated], training]
    if setting.tiles and not data.exists():
        tiles = ["--size", str(setting.tiles)]
        return [["data", "slice", str(paths.user_data(setting)), str(data), *tiles], training]
    return [training]


def _pretrain_command(setting: Setting, name: str, paths: Paths) -> list[str]:
    run = PRETRAININGS[name]
    flags = ["--guide", str(paths.guide(setting)), "--interpolator", run.kind, "--stages", run.stages]
    overrides = [word for value in run.overrides for word in ("--set", value)]
    output = ["--output", str(paths.pretraining(setting, name)), "--resume"]
    return ["pretrain", *flags, *overrides, *setting.precision_flags(), *output]


def _interpolator(setting: Setting, method: str, paths: Paths) -> str:
    """A method as in ``--interpolators``."""
    if method not in PRETRAINED:
        return method
    source = PRETRAINED[method]
    folder = paths.pretraining(SETTINGS[source.setting or setting.name], source.run)
    return f"{method}={folder / f'stage{source.stage}'}"
