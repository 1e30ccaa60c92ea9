"""Class names beside the tensors of other projects' checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from afictl.weights.stand_ins import as_mapping

ClassNames = tuple[str, ...]
_NAME_KEYS = (
    *("classes", "CLASSES", "class_names", "class_name", "names", "categories", "thing_classes", "label_names"),
    *("labels", "id2label", "idx_to_class", "class_to_idx", "label2id", "label_map", "cat_names"),
)
_PLACES = (
    *("meta", "dataset_meta", "metadata", "metainfo", "args", "hyper_parameters", "hparams", "cfg", "config"),
    *("dataset", "data", "model_args", "extra", "info", "model", "state"),
)
"""Keys of mappings that can contain class names, at a depth of at most three."""
_DEPTH = 3
_BACKGROUNDS = ("__background__", "background", "bg")
_MAX_CLASSES = 100_000
_MAX_NAME_LENGTH = 1000


def find_class_names(content: object) -> tuple[ClassNames, ...]:
    """All lists of class names in the content of a checkpoint, in label order, without repetition.

    Among them are ``meta.CLASSES`` of mmdetection 2, ``meta.dataset_meta.classes`` of mmdetection 3, the ``categories``
    of torchvision's weights, and the names in arguments and hyper-parameters. Lists, lists of COCO categories, and
    mappings between label and name are read.
    """
    lists: dict[ClassNames, None] = {}
    level = [as_mapping(content)]
    for _ in range(_DEPTH):
        for mapping in level:
            lists |= {names: None for key in _NAME_KEYS if (names := _names(mapping.get(key)))}
        level = [as_mapping(mapping.get(key)) for mapping in level for key in _PLACES]
    return tuple(lists)


def names_of_count(candidates: Sequence[ClassNames], count: int) -> ClassNames:
    """The first of ``candidates`` with ``count`` names, one for the background left out; empty if there is none."""
    for names in candidates:
        if len(names) == count:
            return names
    for names in candidates:
        if len(names) == count + 1:
            for place, rest in ((0, names[1:]), (-1, names[:-1])):
                if names[place].lower() in _BACKGROUNDS:
                    return rest
    return ()


def _names(value: object) -> ClassNames:
    """Unique, non-empty names in label order; empty for a value of another form."""
    if isinstance(value, (list, tuple)) and 0 < len(value) <= _MAX_CLASSES:
        names = list(value) if all(isinstance(name, str) for name in value) else list(_category_names(value))
    elif isinstance(value, Mapping) and 0 < len(value) <= _MAX_CLASSES:
        names = list(_mapped_names(value))
    else:
        return ()
    names = [name.strip() if isinstance(name, str) else "" for name in names]  # of lines of a file
    valid = all(name.isprintable() and 0 < len(name) <= _MAX_NAME_LENGTH for name in names)
    return tuple(names) if valid and len(set(names)) == len(names) else ()


def _category_names(items: Sequence[object]) -> Iterator[str]:
    """Names of COCO categories in the order of their ids."""
    categories = [as_mapping(item) for item in items]
    if all(type(item.get("id")) is int and isinstance(item.get("name"), str) for item in categories):
        for item in sorted(categories, key=lambda item: int(str(item["id"]))):
            yield str(item["name"])


def _mapped_names(mapping: Mapping[object, object]) -> Iterator[str]:
    """Names of a mapping from label to name, or from name to label, with consecutive labels from 0 or 1."""
    pairs = {_label(key): value for key, value in mapping.items()}
    if None in pairs:
        pairs = {_label(value): key for key, value in mapping.items()}
    labels = sorted(label for label in pairs if label is not None)
    consecutive = labels == list(range(len(mapping))) or labels == list(range(1, len(mapping) + 1))
    names = [pairs[label] for label in labels] if consecutive else []
    yield from (name for name in names if isinstance(name, str))


def _label(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 7:
        return int(value)
    return value if type(value) is int else None
