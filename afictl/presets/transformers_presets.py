"""transformers' object-detection models as presets ``transformers:NAME``; imported only for those.

Source: the configurations and image processors of transformers. Their code is run, but never code of a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from afictl.errors import UserError, did_you_mean, one_line
from afictl.json_files import read_json
from afictl.name_or_path import Names, parse_name
from afictl.presets.pixel_statistics import IMAGENET
from afictl.yaml_files import dump_yaml, parse_yaml

try:
    import transformers
    from transformers import AutoConfig, PreTrainedConfig
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise UserError(
        "presets transformers:... need transformers, which is not installed: pip install 'afictl[transformers]'"
    ) from None

MODELS = {
    "rt_detr": "RTDetrForObjectDetection",
    "rt_detr_v2": "RTDetrV2ForObjectDetection",
    "d_fine": "DFineForObjectDetection",
}
"""Types of models with a hybrid encoder, which enlarges maps, and their classes."""
_CONFIG_FILE = "config.json"
_PROCESSOR_FILE = "preprocessor_config.json"
_PER_DATASET = ("id2label", "label2id", "num_labels")
_DESCRIPTIVE = ("transformers_version", "architectures", "_name_or_path", "dtype", "torch_dtype", "auto_map")
"""Keys of a configuration that change nothing in the model."""
_FORMER_BACKBONE = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs")
"""Keys of earlier versions that name a backbone, which transformers looks up in the network."""
_SIDE_STEP = 32
"""Training sizes are multiples of the coarsest stride, from 3/4 to 5/4 of the test size (RT-DETR)."""

_RECIPE: dict[str, object] = {
    "steps": 533_000,  # 72 epochs of COCO
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 1e-4,
    "milestones": (),
    "warmup_steps": 2000,
    "clip_norm": 0.1,
    "ema_decay": 0.9999,
}


def preset_values(name: str) -> dict[str, object]:
    """The model ``name`` as values of a preset, with the recipe of RT-DETR (https://arxiv.org/abs/2304.08069).

    Args:
        name: a type of model (or its class), whose default configuration it is; or the path of a configuration in
            JSON, or of the folder that holds it as ``config.json``. A configuration is embedded completely.

    Raises:
        UserError: neither, or a configuration of another model or with wrong values.
    """
    source, processor = _find(name)
    text = dump_yaml(_difference(_make(source, f"transformers:{name}")), flow=True)
    values = model_values(text)
    values["detector"]["source"] = text
    return {
        "name": f"transformers:{name}",
        "description": f"transformers' {MODELS[source['model_type']]}.",
        **values,
        "interpolator": {"kind": "nearest"},
        "input": _input_values(read_json(processor) if processor.is_file() else {}, str(processor)),
        "train": _RECIPE,
    }


def _find(name: str) -> tuple[dict[str, Any], Path]:
    """The configuration of ``name``, and the place of that of its image processor, which may not exist."""
    types = {**{kind: kind for kind in MODELS}, **{model: kind for kind, model in MODELS.items()}}
    kind = parse_name(name, Names(types, "type", "model type of transformers"), "transformers:")
    if kind:
        return {"model_type": types[kind]}, Path()
    file = Path(name) / _CONFIG_FILE if Path(name).is_dir() else Path(name)
    if not file.is_file():
        hint = did_you_mean(name, list(MODELS))
        raise UserError(f"transformers:{name}: neither a configuration in JSON nor its folder nor a type{hint}")
    return _read_file(file), file.with_name(_PROCESSOR_FILE)


def read_config(source: str) -> PreTrainedConfig:
    """The configuration of ``detector.source`` of a preset: YAML of what differs from the defaults of its type.

    Raises:
        UserError: no such YAML, a type without hybrid encoder, or a value that transformers refuses.
    """
    values = parse_yaml(source, "detector.source")
    if not isinstance(values, Mapping):
        raise UserError("detector.source: a configuration of transformers is a mapping with the key model_type")
    return _make({str(key): value for key, value in values.items()}, "detector.source")


def model_values(source: str) -> dict[str, dict[str, object]]:
    """The sections ``backbone``, ``neck`` and ``detector`` of a preset with this ``detector.source``."""
    config: Any = read_config(source)
    norm = "frozen-batch" if config.freeze_backbone_batch_norms else "batch"
    return {
        "backbone": {
            "name": str(getattr(config.backbone_config, "model_type", "")),
            "pretrained": False,
            "frozen_stages": 0,
            "norm": norm,
        },
        "neck": {"kind": "pafpn", "channels": config.encoder_hidden_dim, "top": "res5"},
        "detector": {"kind": "transformers", "score_threshold": 0.0, "max_detections": config.num_queries},
    }


def _read_file(file: Path) -> dict[str, Any]:
    values = read_json(file)
    if not isinstance(values, dict) or "model_type" not in values:
        raise UserError(f"{file}: a configuration of transformers is a mapping with the key model_type")
    return values


def _make(values: Mapping[str, Any], place: str) -> PreTrainedConfig:
    """The configuration with these ``values``; ``place`` names it in errors."""
    kind = values.get("model_type")
    if kind not in MODELS:
        raise UserError(
            f"{place}: model_type: afictl takes {', '.join(MODELS)} from transformers, whose hybrid encoder enlarges"
            f" maps, not {kind!r:.40}"
        )
    if values.get("backbone"):
        raise UserError(f"{place}: backbone: {values['backbone']!r:.60} is a name; give its backbone_config instead")
    other_keys = ("model_type", *_PER_DATASET, *_DESCRIPTIVE, *_FORMER_BACKBONE)
    arguments = {key: value for key, value in values.items() if key not in other_keys}
    backbone = arguments.get("backbone_config")
    if isinstance(backbone, Mapping) and "use_pretrained_backbone" in backbone:
        arguments["backbone_config"] = {**backbone, "use_pretrained_backbone": False}  # nothing is downloaded
    try:
        return AutoConfig.for_model(kind, **arguments)
    except Exception as error:  # transformers checks values by errors of many types
        raise UserError(
            f"{place}: not a configuration of {kind} in transformers {transformers.__version__}: {one_line(error):.200}"
        ) from None


def _difference(config: PreTrainedConfig) -> dict[str, Any]:
    """What differs from the defaults of the type, the same in every later version that has these defaults."""
    defaults = AutoConfig.for_model(config.model_type).to_dict()
    return {"model_type": config.model_type, **dict(_changes(config.to_dict(), defaults))}


def _changes(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if key in (*_PER_DATASET, *_DESCRIPTIVE) or (key in defaults and defaults[key] == value):
            continue
        if isinstance(value, Mapping) and isinstance(value.get("model_type"), str):
            nested = AutoConfig.for_model(value["model_type"]).to_dict()
            yield key, {"model_type": value["model_type"], **dict(_changes(value, nested))}
        else:
            yield key, value


def _input_values(processor: object, file: str) -> dict[str, object]:
    """Sizes and normalisation of the image processor, whose defaults are those of ``RTDetrImageProcessor``.

    Raises:
        UserError: a size in another form than height and width, or shortest and longest edge.
    """
    settings = processor if isinstance(processor, Mapping) else {}
    size = settings.get("size", {"height": 640, "width": 640})
    normalises = settings.get("do_normalize", False)
    pixels = {
        "mean": settings.get("image_mean", IMAGENET["mean"]) if normalises else (0.0, 0.0, 0.0),
        "std": settings.get("image_std", IMAGENET["std"]) if normalises else (1.0, 1.0, 1.0),
    }
    if isinstance(size, Mapping) and "height" in size and size["height"] == size.get("width"):
        side = size["height"]
        sides = _training_sides(side)
        return {"test_size": side, "min_sizes": sides, "max_size": max(side, *sides), "square": True, **pixels}
    if isinstance(size, Mapping) and {"shortest_edge", "longest_edge"} <= size.keys():
        side = size["shortest_edge"]
        return {
            "test_size": side,
            "min_sizes": _training_sides(side),
            "max_size": size["longest_edge"],
            "square": False,
            **pixels,
        }
    raise UserError(f"{file}: size: afictl resizes to squares or to a shortest and longest edge, not to {size!r:.80}")


def _training_sides(side: int) -> tuple[int, ...]:
    low, high = (max(1, round(side * factor / _SIDE_STEP)) for factor in (0.75, 1.25))
    return tuple(_SIDE_STEP * count for count in range(low, high + 1))
