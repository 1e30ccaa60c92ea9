"""Validation of ground truth before a loss is computed from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from afictl.detectors.head import Target


def check_targets(
    targets: Sequence[Target] | None, sizes: Sequence[tuple[int, int]], num_classes: int, masks: bool = False
) -> list[Target]:
    """Return the targets of a batch, or raise an error that names the first wrong one and its value.

    Args:
        targets: one for each image.
        sizes: height and width of each image.
        num_classes: K; labels are 1..K.
        masks: whether bitmaps are needed.

    Raises:
        ValueError: no targets, a missing field, a wrong shape, a box without area or a label outside 1..K.
    """
    if targets is None or len(targets) != len(sizes):
        count = "none" if targets is None else len(targets)
        raise ValueError(f"training needs one target for each of the {len(sizes)} images, got {count}")
    for index, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        _check_fields(target, index, size, masks)
    _check_values(targets, num_classes)
    return list(targets)


def _check_fields(target: Target, index: int, size: tuple[int, int], masks: bool) -> None:
    for name in ("boxes", "labels", "masks") if masks else ("boxes", "labels"):
        if name not in target:
            raise ValueError(f"target {index} has no '{name}'")
    count = len(target["labels"])
    expected = {"boxes": (count, 4), "labels": (count,), "masks": (count, *size)}
    for name, shape in expected.items():
        if (name != "masks" or masks) and tuple(target[name].shape) != shape:
            raise ValueError(f"target {index}: {name} have shape {tuple(target[name].shape)}, expected {shape}")
    if not target["boxes"].is_floating_point() or target["labels"].dtype != torch.int64:
        dtypes = f"{target['boxes'].dtype} and {target['labels'].dtype}"
        raise ValueError(f"target {index}: boxes are float and labels int64, got {dtypes}")


def _check_values(targets: Sequence[Target], num_classes: int) -> None:
    boxes, labels = (torch.cat([target[name] for target in targets]) for name in ("boxes", "labels"))
    empty = ~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    unknown = (labels < 1) | (labels > num_classes)
    # Valid targets need a single synchronisation with the device.
    if not bool((empty | unknown).any()):
        return
    row = int((empty | unknown).nonzero()[0])
    counts = torch.tensor([len(target["labels"]) for target in targets])
    index = int(torch.searchsorted(counts.cumsum(0), row, right=True))
    if bool(empty[row]):
        raise ValueError(f"target {index}: box {boxes[row].tolist()} has no width or no height")
    raise ValueError(f"target {index}: label {int(labels[row])} is not in 1..{num_classes}")
