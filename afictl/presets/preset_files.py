"""Presets by name or file: find, extend and override their YAML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from afictl.errors import UserError, did_you_mean
from afictl.name_or_path import Names, parse_name
from afictl.presets.architecture import NeckConfig
from afictl.presets.numbers import RECORDED
from afictl.presets.pixel_statistics import IMAGENET, network_statistics
from afictl.presets.schema import Preset, section_kinds
from afictl.presets.validation import errors_of_keys, format_errors, format_validation_error
from afictl.yaml_files import parse_yaml, read_yaml

_TORCHVISION = "torchvision:"
_DETECTRON2 = "detectron2:"
_TRANSFORMERS = "transformers:"
_SUFFIXES = (".yaml", ".yml")
_MAX_SECTIONS = 10
_NOT_INHERITED = {"name", "published"}  # they identify one preset

_FLAT_KEYS = {
    "neck": frozenset({"kind", "channels", "norm", "fuse", "top", "repeats", "fusion", "skips", "blocks"}),
    "detector": frozenset(
        {"kind", "anchor_sizes", "anchors_per_octave", "anchor_ratios", "rpn_batch", "proposals_before_nms_train"}
        | {"proposals_before_nms_test", "proposals_train", "proposals_test", "roi_batch", "box_head", "head_norm"}
        | {"fc_width", "mask_width", "size_ranges", "level_scales", "candidates"}
        | {"score_threshold", "nms_threshold", "max_detections"}
    ),
}
"""Keys of a section in presets that earlier versions stored, whatever its kind."""
_LIBRARY_KEYS = frozenset({"source", "segments"})
"""Further keys of ``detector`` in most of them."""


@cache
def _folder() -> Path:
    """``presets/`` of the checkout, or its copy inside an installed wheel."""
    installed = Path(__file__).parents[1] / "_presets"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "presets"


def list_presets() -> list[str]:
    """Names of the shipped presets, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml") if not path.stem.startswith("_"))


def list_torchvision_presets() -> list[str]:
    """Names of the presets that are models of torchvision, such as ``torchvision:fasterrcnn_resnet50_fpn``, sorted."""
    return sorted(f"{_TORCHVISION}{path.stem}" for path in (_folder() / "torchvision").glob("*.yaml"))


def load_preset(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Preset:
    """Load a preset by name or from a YAML file.

    Args:
        name_or_path: a name from ``list_presets()``, perhaps after ``preset:``, the path of a ``.yaml`` file,
            ``torchvision:`` and the name of a detection model of torchvision, ``detectron2:`` and a configuration of
            detectron2, or ``transformers:`` and a configuration or model type of transformers.
        overrides: settings such as ``"train.lr=0.01"``; the value is read as YAML.

    Raises:
        UserError: unknown preset, a name that is also an existing path, unreadable file, unknown key or a value of
            the wrong kind.
    """
    name = str(name_or_path)
    if name.startswith(_DETECTRON2):
        from afictl.presets.detectron2_presets import preset_values  # detectron2 is optional

        return _resolve(preset_values(name.removeprefix(_DETECTRON2)), overrides, source=name)
    if name.startswith(_TRANSFORMERS):
        from afictl.presets import transformers_presets  # transformers is optional

        values = transformers_presets.preset_values(name.removeprefix(_TRANSFORMERS))
        return _resolve(values, overrides, source=name)
    shipped = parse_name(name, _shipped_names(), "preset ")
    path = _find_shipped(shipped) if shipped else _find_file(name)
    default = shipped if shipped and shipped.startswith(_TORCHVISION) else path.stem
    return _resolve({"name": default, **_read(path)}, overrides, source=str(path))


def parse_preset(values: Mapping[str, object], overrides: Iterable[str] = (), source: str = "preset") -> Preset:
    """Build a preset from the nested ``values`` that a checkpoint or run stores, of this or an earlier version.

    Of its numbers only those of ``overrides`` have to be plausible, as earlier versions accepted others.

    Args:
        values: a dump of a preset.
        overrides: settings such as ``"train.lr=0.01"`` on top of it.
        source: file or name for error messages.

    Raises:
        UserError: unknown key or a value of the wrong kind.
    """
    return _resolve(_upgrade(values), overrides, source, is_recorded=True)


def overridden_values(overrides: Iterable[str]) -> dict[str, object]:
    """Dotted key -> value of settings such as ``"train.lr=0.01"`` or ``"train={lr: 0.01}"``, down to single values.

    Raises:
        UserError: a setting that is not ``KEY=VALUE`` with a value in YAML.
    """
    return {key: value for override in overrides for key, value in _leaves(_parse_override(override))}


def _leaves(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{lower}", leaf) for lower, leaf in _leaves(value))
        else:
            yield key, value


def upgrade_settings(settings: object) -> object:
    """Recorded settings of a run or comparison, with a ``preset`` of an earlier version in today's form.

    A key that did not exist has its default, with which today's version computes what the earlier one did.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("preset"), Mapping):
        return settings
    preset = _merge(Preset(name="").model_dump(mode="json"), _upgrade(settings["preset"]))
    if str(settings.get("command")).startswith("pretrain") and isinstance(preset["interpolator"], Mapping):
        # Earlier versions recorded the kind of the guide, beside the options of the interpolator that was trained.
        preset["interpolator"] = {**preset["interpolator"], "kind": settings.get("interpolator", "afi")}
    return {**settings, "preset": preset}


def parse_neck(values: Mapping[str, object]) -> NeckConfig:
    """Build the config of a neck from its keys; ``kind`` is ``fpn`` unless given.

    Raises:
        UserError: a key or value that a neck of this kind does not have.
    """
    return _validate({"name": "", "neck": {"kind": "fpn", **values}}).neck


def _upgrade(values: Mapping[str, object]) -> dict[str, object]:
    """A preset in today's form from one of an earlier version, whose sections hold the keys of all kinds."""
    preset = dict(values)
    for section, flat_keys in _FLAT_KEYS.items():
        keys = values.get(section)
        if isinstance(keys, Mapping) and flat_keys <= keys.keys():
            model = section_kinds(section).get(str(keys["kind"]))
            obsolete = (flat_keys | _LIBRARY_KEYS) - model.model_fields.keys() if model else set()
            preset[section] = {key: value for key, value in keys.items() if key not in obsolete}
    return preset


def _resolve(
    values: Mapping[str, object], overrides: Iterable[str], source: str, *, is_recorded: bool = False
) -> Preset:
    """Check ``values`` on top of the defaults, then ``overrides`` on top of both."""
    merged_values = _merge_presets(Preset(name="").model_dump(), values)
    preset = _validate(merged_values, source, is_recorded=is_recorded)
    overrides = list(overrides)
    if not overrides:
        return preset
    for override in sorted(overrides, key=_is_no_kind):
        merged_values = _merge_presets(merged_values, _parse_override(override))
    return _validate_overrides(merged_values, overrides) if is_recorded else _validate(merged_values, "--set")


def _validate(values: Mapping[str, object], source: str = "", *, is_recorded: bool = False) -> Preset:
    try:
        return Preset.model_validate(values, context=RECORDED if is_recorded else None)
    except ValidationError as error:
        message = format_validation_error(error)
        raise UserError(f"{source}: {message}" if source else message) from None


def _validate_overrides(values: Mapping[str, object], overrides: Iterable[str]) -> Preset:
    """Check recorded ``values`` of which those of ``overrides`` have to be plausible."""
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        if errors := errors_of_keys(error, overridden_values(overrides)):
            raise UserError(f"--set: {format_errors(errors)}") from None
    return _validate(values, "--set", is_recorded=True)


@cache
def _shipped_names() -> Names:
    return Names([*list_presets(), *list_torchvision_presets()], "preset", "shipped preset")


def _find_shipped(name: str) -> Path:
    """The YAML file of a shipped preset."""
    folder = _folder() / "torchvision" if name.startswith(_TORCHVISION) else _folder()
    return folder / f"{name.removeprefix(_TORCHVISION)}.yaml"


def _find_file(name: str) -> Path:
    """The file of a preset that is none of the shipped ones."""
    is_path = name.endswith(_SUFFIXES) or len(Path(name).parts) > 1
    if is_path and not name.startswith(_TORCHVISION):
        path = Path(name)
        if path.is_dir():
            raise UserError(f"{name}: is a folder; a preset is a YAML file, such as {path / 'NAME.yaml'}")
        if not path.exists():
            raise UserError(f"{name}: no such file; a preset is a YAML file or one of 'afictl model list'")
        return path
    name = name.removeprefix("preset:")
    if name.startswith(_TORCHVISION):
        models = [preset.removeprefix(_TORCHVISION) for preset in list_torchvision_presets()]
        model = name.removeprefix(_TORCHVISION)
        raise UserError(
            f"no model of torchvision with a feature pyramid is called '{model}'"
            f"{did_you_mean(model, models, listed_by='afictl model list')}"
        )
    raise UserError(f"no preset is called '{name}'{did_you_mean(name, list_presets(), listed_by='afictl model list')}")


def _find_base(base: str, path: Path) -> Path:
    """The file of the preset that the file at ``path`` extends: one beside it, or a shipped preset."""
    names = _shipped_names()
    shipped = base.removeprefix(f"{names.prefix}:")
    neighbour = path.parent / (base if base.endswith(_SUFFIXES) else f"{base}.yaml")
    if not neighbour.exists():
        return _find_shipped(shipped) if shipped in names.members else _find_file(base)
    if base in names.members and not neighbour.samefile(_find_shipped(base)):
        raise UserError(
            f"{path}: extends: {base} is the name of a shipped preset and also a file beside it; write"
            f" {names.prefix}:{base} for the shipped preset, or {base}.yaml for the file"
        )
    return neighbour


def _read(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, object]:
    """Values of a file on top of those of the preset that it extends; ``extending`` are the files that extend it."""
    return _read_shipped(path) if path.is_relative_to(_folder()) else _read_file(path, extending)


@cache
def _read_shipped(path: Path) -> dict[str, object]:
    return _read_file(path, ())


def _read_file(path: Path, extending: tuple[Path, ...]) -> dict[str, object]:
    if path in extending:
        raise UserError(f"{path}: extends: the preset extends itself")
    values = read_yaml(path)
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a preset is a mapping of keys to values")
    values = _upgrade(values)
    base = values.pop("extends", None)
    if base is None:
        return values
    try:
        file = _find_base(str(base), path)
    except UserError as error:
        raise UserError(f"{path}: extends: {str(error).removeprefix(f'{path}: extends: ')}") from None
    base_values = _read(file, (*extending, path))
    return _merge_presets({key: value for key, value in base_values.items() if key not in _NOT_INHERITED}, values)


def _merge_presets(base: Mapping[str, object], top: Mapping[str, object]) -> dict[str, object]:
    """``_merge`` where another backbone brings its own statistics of pixels, unless ``base`` has chosen others."""
    merged_values = _merge(base, top)
    former, network = (_section(values, "backbone").get("name") for values in (base, merged_values))
    if former == network or not isinstance(merged_values.get("input", {}), Mapping):
        return merged_values
    inherited, given = _section(base, "input"), _section(top, "input")
    if IMAGENET.keys() <= given.keys():
        return merged_values
    published, other = network_statistics(network), network_statistics(former)
    statistics = {
        key: value
        for key, value in published.items()
        if key not in given and _as_tuple(inherited.get(key, other[key])) == other[key]
    }
    return {**merged_values, "input": {**_section(merged_values, "input"), **statistics}}


def _as_tuple(values: object) -> object:
    return tuple(values) if isinstance(values, list) else values


def _section(values: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _merge(base: Mapping[str, object], top: Mapping[str, object], section: str = "") -> dict[str, object]:
    """``top`` on top of ``base``; what belongs to another kind or name than that of ``top`` is not inherited."""
    merged_values = _inherited(base, top, section)
    for key, value in top.items():
        lower = merged_values.get(key)
        if isinstance(value, Mapping) and isinstance(lower, Mapping):
            merged_values[key] = _merge(lower, value, key)
        else:
            merged_values[key] = value
    return merged_values


def _inherited(base: Mapping[str, object], top: Mapping[str, object], section: str) -> dict[str, object]:
    """The keys of ``base`` that stay: all, or for another kind or name those that are not specific to the old one."""
    if all(key not in top or top[key] == base.get(key) for key in ("kind", "name")):
        return dict(base)
    model = section_kinds(section).get(str(top.get("kind")))
    return {key: value for key, value in base.items() if key != "options" and (not model or key in model.model_fields)}


def _is_no_kind(override: str) -> bool:
    """False for a name or kind, which is applied first: it drops keys of the former kind, but none set beside it."""
    return override.partition("=")[0].strip().rpartition(".")[2] not in ("name", "kind")


def _parse_override(text: str) -> dict[str, object]:
    """``KEY.KEY=VALUE`` as nested values."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"--set {text}: write KEY=VALUE, for example train.lr=0.01")
    *sections, name = key.strip().split(".")
    if len(sections) > _MAX_SECTIONS:
        raise UserError(f"--set {text:.80}: no preset has a key in so many sections")
    values: dict[str, object] = {name: parse_yaml(value, f"--set {text:.80}")}
    for section in reversed(sections):
        values = {section: values}
    return values
