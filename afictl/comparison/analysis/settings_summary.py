"""Settings of runs as text, and those that are not equal for all runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afictl.presets import BiFPNConfig, InputConfig, NeckConfig, Preset
from afictl.training.run_writer import config_differences

UNEQUAL_PREFIX = "NOT THE SAME"
"""Prefix of the key of a setting that is not equal for all runs."""
ADDED_SEEDS = "added seeds"
"""Key of the rule by which seeds were added."""
TRAINED_STEPS = "trained_steps"
"""Key of the number of steps of a run, which early stopping makes unequal."""
_METHOD_KEYS = ("seed", "interpolator", "preset.interpolator.", "contents.interpolator.", "hardware.precision.")
"""Keys of the method and the seed, and the precision, which is a separate key."""
_FINGERPRINTS = "contents."
_THREADS = "hardware.threads."
_FINGERPRINT_LENGTH = 16
"""Characters of a fingerprint in a text."""
_KEYS_WITHOUT_EFFECT = (
    "classes",
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
    """Settings other than interpolator and seed that determine the result, as text.

    Args:
        preset: preset of the runs.
        config: ``data``, ``weights`` and ``backbone_weights`` as in ``config.yaml``, ``precision``, and ``tune`` of a
            comparison.
    """
    recipe, view, backbone = preset.train, preset.input, preset.backbone
    tuned = config.get("tune") or {}

    def untuned(name: str, text: str) -> str:
        return f"{name} tuned" if f"train.{name}" in tuned else text

    schedule = (
        f"{recipe.steps} steps of {recipe.batch_size} images",
        f"or until {recipe.patience} evaluations without a higher AP" if recipe.patience else "",
        untuned("optimizer", recipe.optimizer),
        untuned("lr", f"lr {recipe.base_lr:g}"),
        untuned("schedule", recipe.schedule),
        untuned("interpolator_lr", _describe_factor(recipe.interpolator_lr)),
    )
    return {
        "data": config["data"],
        "detector": f"{preset.detector.kind}, {backbone.name}, {_describe_neck(preset.neck)}",
        "schedule": ", ".join(filter(None, schedule)),
        **{f"tuned, {key}": f"for each method, from {_enumerate(values, 10)}" for key, values in tuned.items()},
        **({"augmentation": _describe_augmentation(view)} if view.augmentation else {}),
        "image sizes": _describe_sizes(view),
        "start weights": f"{config['weights'] or config['backbone_weights']}{_choice(config.get('averaged'))}".strip()
        or ("ImageNet" if backbone.pretrained else "random"),
        "precision": config["precision"],
        "evaluation": f"{untuned('ema_decay', _describe_average(recipe.ema_decay))} on all held-out images",
    }


def _describe_sizes(config: InputConfig) -> str:
    sides = "squares of" if config.square else "short side"
    return f"{sides} {_range(config.min_sizes)} in training, {config.test_size} in evaluation"


def _describe_factor(factor: float) -> str:
    """The learning rate of the interpolator; empty for that of the other parts."""
    if not factor:
        return "the interpolator frozen"
    return "" if factor == 1 else f"the interpolator's lr times {factor:g}"


def _describe_average(decay: float) -> str:
    return f"the average of the weights (EMA, decay {decay:g}) after the last step" if decay else "the last weights"


def _describe_augmentation(view: InputConfig) -> str:
    return ", ".join(f"{key} {_enumerate(v) if isinstance(v, tuple) else v}" for key, v in view.augmentation.items())


def _describe_neck(neck: NeckConfig) -> str:
    parts = [f"{neck.kind} of {neck.channels} channels"]
    if not isinstance(neck, BiFPNConfig) and neck.top_down_from == "p6":
        parts.append("top-down path from p6")
    if neck.interpolators == "per-step":
        parts.append("an interpolator for each enlargement")
    return ", ".join(parts)


def _choice(averaged: bool | None) -> str:
    """The choice of the user between averaged and trained weights, for the end of a text."""
    return "" if averaged is None else f" ({'averaged' if averaged else 'trained'} weights)"


def unequal_settings(configs: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Settings other than interpolator and seed that differ between runs: by key, each value with its runs.

    Args:
        configs: content of ``config.yaml`` by run.
    """
    first = next(iter(configs.values()))
    keys = {
        key: None
        for config in configs.values()
        for key in config_differences(first, config)
        if _affects_result(key) and _is_comparable(key, configs)
    }
    texts = {}
    for key in keys:
        runs: dict[str, list[str]] = {}
        for run, config in configs.items():
            value = str(_nested_value(config, key)) or "none"
            runs.setdefault(value[:_FINGERPRINT_LENGTH] if key.startswith(_FINGERPRINTS) else value, []).append(run)
        texts[key.removeprefix("preset.")] = "; ".join(f"{value}: {_enumerate(names)}" for value, names in runs.items())
    return texts


def mark_unequal(unequal: Mapping[str, str]) -> dict[str, str]:
    """The result of ``unequal_settings`` for the settings of a comparison, with keys that say that they are unequal."""
    return {f"{UNEQUAL_PREFIX}, {key}": text for key, text in unequal.items()}


def _affects_result(key: str) -> bool:
    return not f"{key}.".startswith((*_METHOD_KEYS, *_KEYS_WITHOUT_EFFECT))


def _is_comparable(key: str, configs: Mapping[str, Mapping[str, object]]) -> bool:
    """False for a fingerprint or a number of threads or steps that a run lacks, as of an earlier version."""
    return not f"{key}.".startswith((_FINGERPRINTS, _THREADS, f"{TRAINED_STEPS}.")) or all(
        _nested_value(config, key) for config in configs.values()
    )


def _nested_value(config: object, key: str) -> object:
    """The value of a dotted key; None if it is absent."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _enumerate(names: Sequence[object], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more


def _range(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
