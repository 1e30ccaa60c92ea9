"""Under which conditions runs were made, in words, and where they are not the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from afictl.presets import Preset
from afictl.training.run_writer import config_differences

UNEQUAL_PREFIX = "NOT THE SAME"
"""How the names of conditions begin in which runs differ."""
_OF_METHOD = ("seed", "interpolator", "preset.interpolator.", "hardware.")  # whose precision stands beside it too
_WITHOUT_EFFECT = (
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
    """What decides the outcome beside interpolator and seed.

    Args:
        preset: of the runs.
        config: ``data``, ``weights``, ``backbone_weights`` as a run records them, and ``precision``.
    """
    recipe, view, backbone = preset.train, preset.input, preset.backbone
    start = config["weights"] or config["backbone_weights"] or ("ImageNet" if backbone.pretrained else "random")
    return {
        "data": config["data"],
        "detector": f"{preset.detector.kind}, {backbone.name}, {preset.neck.kind} of {preset.neck.channels} channels",
        "schedule": f"{recipe.steps} steps of {recipe.batch_size} images, {recipe.optimizer}, lr {recipe.lr:g}, "
        f"{recipe.schedule}",
        "image sizes": f"short side {_range(view.min_sizes)} in training, {view.test_size} in evaluation",
        "start weights": start,
        "precision": config["precision"],
        "evaluation": "the last weights on all held-out images",
    }


def differing_settings(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What differs between runs beside interpolator and seed: by key, each value with the runs that have it.

    Args:
        configs: what each run records, by its name.
    """
    first = next(iter(configs.values()))
    keys = {key: None for config in configs.values() for key in config_differences(first, config) if _matters(key)}
    found = {}
    for key in keys:
        holders: dict[str, list[str]] = {}
        for name, config in configs.items():
            holders.setdefault(str(_value(config, key)) or "none", []).append(name)
        found[key.removeprefix("preset.")] = "; ".join(f"{value}: {_listed(names)}" for value, names in holders.items())
    return found


def _matters(key: str) -> bool:
    return not f"{key}.".startswith((*_OF_METHOD, *_WITHOUT_EFFECT))


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _range(sizes: Sequence[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else f"{min(sizes)} to {max(sizes)}"
