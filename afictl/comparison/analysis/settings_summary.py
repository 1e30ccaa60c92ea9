"""The settings of runs as text, and those that are not equal for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afictl.presets import Preset
from afictl.training.run_writer import config_differences

UNEQUAL_PREFIX = "NOT THE SAME"
"""Start of the key of a setting that is not equal for all runs."""
_METHOD_KEYS = ("seed", "interpolator", "preset.interpolator.", "hardware.")
"""Keys that belong to a method or seed, or, like the precision in ``hardware``, are repeated elsewhere."""
_KEYS_WITHOUT_EFFECT = (
    "command",
    "preset.name",
    "preset.description",
    "preset.published.",
    "preset.stage1.",
    "preset.stage2.",
    "preset.train.eval_every",
    "preset.train.checkpoint_every",
)


def describe_settings(preset: Preset, config: Mapping[str, Any]) -> dict[str, str]:
    """The settings that determine the result beside interpolator and seed.

    Args:
        preset: of the runs.
        config: ``data``, ``weights`` and ``backbone_weights`` as in ``config.yaml``, and ``precision``.
    """
    recipe, view, backbone = preset.train, preset.input, preset.backbone
    return {
        "data": config["data"],
        "detector": f"{preset.detector.kind}, {backbone.name}, {preset.neck.kind} of {preset.neck.channels} channels",
        "schedule": f"{recipe.steps} steps of {recipe.batch_size} images, {recipe.optimizer}, lr {recipe.lr:g}, "
        f"{recipe.schedule}",
        "image sizes": f"short side {_range(view.min_sizes)} in training, {view.test_size} in evaluation",
        "start weights": config["weights"]
        or config["backbone_weights"]
        or ("ImageNet" if backbone.pretrained else "random"),
        "precision": config["precision"],
        "evaluation": "the last weights on all held-out images",
    }


def unequal_settings(configs: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """The settings, beside interpolator and seed, in which runs differ: by key, each value and the runs with it.

    Args:
        configs: contents of ``config.yaml`` by run.
    """
    first = next(iter(configs.values()))
    keys = {key: None for config in configs.values() for key in config_differences(first, config) if _matters(key)}
    texts = {}
    for key in keys:
        runs: dict[str, list[str]] = {}
        for run, config in configs.items():
            runs.setdefault(str(_value(config, key)) or "none", []).append(run)
        texts[key.removeprefix("preset.")] = "; ".join(f"{value}: {_enumerate(names)}" for value, names in runs.items())
    return texts


def _matters(key: str) -> bool:
    return not f"{key}.".startswith((*_METHOD_KEYS, *_KEYS_WITHOUT_EFFECT))


def _value(config: object, key: str) -> object:
    """The value of a dotted key; None if there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _enumerate(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _range(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
