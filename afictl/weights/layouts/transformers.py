"""Folders of transformers' ``save_pretrained`` with a detector that has a hybrid encoder.

transformers itself converts the tensor names of earlier versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from afictl.errors import UserError, one_line
from afictl.json_files import read_json
from afictl.meta_device import building_on_meta_device
from afictl.presets import load_preset
from afictl.presets.architecture import TransformersConfig
from afictl.weights.checkpoint import Checkpoint
from afictl.weights.description import describe_foreign
from afictl.weights.stored_classes import find_class_names, names_of_count

_CONFIG = "config.json"
_SCORES, _PROJECTIONS = "model.enc_score_head.bias", "model.encoder_input_proj."
_INTERPOLATORS = ".interpolators."
"""Part of the names of what ``substitute_interpolator`` has put in."""
_MAX_RATIO = 2
"""Of the values that a configuration describes and those of the weights, which hold tied ones once."""
_ASSUMED = "LABEL_0"
"""Name of the first class where a configuration has none."""


def translate_transformers(checkpoint: Checkpoint) -> Checkpoint | None:
    """A detector of this layout under the tensor names of ``transformers:FOLDER``, with nearest interpolation.

    Raises:
        UserError: a detector of this layout without its configuration, or one that transformers cannot load.
    """
    tensors, file = checkpoint.tensors, checkpoint.path.with_name(_CONFIG)
    if _SCORES not in tensors or not any(name.startswith(_PROJECTIONS) for name in tensors):
        return None
    if not file.is_file():
        raise UserError(f"{checkpoint.path}: a detector of transformers without the file {_CONFIG} beside it")
    preset = load_preset(f"transformers:{file.parent}")
    assert isinstance(preset.detector, TransformersConfig)
    num_classes = tensors[_SCORES].numel()
    if num_classes < 1:
        raise UserError(f"{checkpoint.path}: a detector of transformers without a class: {_SCORES} is empty")
    count = sum(_INTERPOLATORS in name for name in tensors)
    notes = [f"{count} tensors of its interpolators are left out"] if count else []
    renamed = _load(preset.detector.source, tensors, num_classes, checkpoint.path)
    description = describe_foreign(preset, num_classes, "transformers", notes)
    names = names_of_count(find_class_names(read_json(file)), num_classes)
    if names and names[0] != _ASSUMED:
        description["classes"] = list(names)
    return replace(checkpoint, tensors=renamed, metadata=description)


def _load(source: str, tensors: Mapping[str, Tensor], num_classes: int, path: Path) -> dict[str, Tensor]:
    """The tensors of ``tensors`` under the names of the present model behind ``model.``."""
    import transformers

    from afictl.presets.transformers_presets import MODELS, read_config

    config: Any = read_config(source)
    config.num_labels = num_classes
    weights = {name: value for name, value in tensors.items() if _INTERPOLATORS not in name}
    kind = getattr(transformers, MODELS[config.model_type])
    _require_size(config, weights, path)
    try:
        with _without_progress_bars():
            model, report = kind.from_pretrained(None, config=config, state_dict=weights, output_loading_info=True)
    except Exception as error:  # errors of many types, for shapes that differ
        raise UserError(f"{path}: transformers cannot load it: {one_line(error):.200}") from None
    unexpected = {name: weights[name] for name in report["unexpected_keys"] if name in weights}
    loaded = {name: value for name, value in model.state_dict().items() if name not in report["missing_keys"]}
    return {f"model.{name}": value for name, value in {**unexpected, **loaded}.items()}


def _require_size(config: Any, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a configuration of a much larger model than its weights, before the model takes memory."""
    from transformers import AutoModelForObjectDetection

    with building_on_meta_device(path):
        model = AutoModelForObjectDetection.from_config(config)
    described, present = (sum(value.numel() for value in state.values()) for state in (model.state_dict(), tensors))
    if described > _MAX_RATIO * present:
        raise UserError(f"{path}: {_CONFIG} describes {described:,} values, the weights are {present:,}")


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
