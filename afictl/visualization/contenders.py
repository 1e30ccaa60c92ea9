"""What one figure compares: trained detectors that are run on the same image and labelled alike, or interpolators."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from afictl.data import Dataset
from afictl.data.transforms import resize_for
from afictl.detectors import Detector, to_original
from afictl.evaluation.category_matching import match_categories
from afictl.interpolators import interpolator_kinds
from afictl.training.initial_weights import resolve_interpolator
from afictl.visualization.pictures import Picture, distinct
from afictl.weights import LoadedDetector, load_detector

_SEED = re.compile(r"seed\d+")
_OF_A_RUN = ("best", "last", "interpolator")


@dataclass(frozen=True)
class Contenders:
    """Detectors by the name that stands above what they find, and the classes of all of them."""

    detectors: Mapping[str, LoadedDetector]
    classes: tuple[str, ...]
    """Those of the data set first; label k of what ``find`` gives is ``classes[k - 1]``."""

    @torch.no_grad()
    def find(
        self, name: str, image: Tensor, threshold: float, drawn_hw: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """What the detector ``name`` finds with a score of at least ``threshold``, on the CPU.

        ``predict`` would paste the masks of all hundred detections first: gigabytes on a large photograph.

        Args:
            image: uint8 (3, H, W) RGB.
            drawn_hw: height and width of the picture in whose pixels boxes and masks are given; None leaves out masks
                and takes the image's own pixels.
        """
        loaded = self.detectors[name]
        seen = resize_for(loaded.detector.input, image)
        (detection,) = loaded.detector.detect([seen], masks=drawn_hw is not None)
        size = drawn_hw or (image.shape[1], image.shape[2])
        moved = to_original(detection, (seen.shape[1], seen.shape[2]), size)
        found = {key: values[moved["scores"] >= threshold].cpu() for key, values in moved.items()}
        probs = found.pop("mask_probs", None)
        if probs is not None and drawn_hw is not None:
            found["masks"] = loaded.detector.paste_masks(probs, found["boxes"], size)
        labels = [self.classes.index(loaded.classes[label - 1]) + 1 for label in found["labels"].tolist()]
        return {**found, "labels": torch.tensor(labels, dtype=torch.int64)}


def load_contenders(
    weights: Mapping[str, Path],
    source: Dataset | Sequence[Picture],
    device: torch.device | str = "cpu",
    load: Callable[[Path], LoadedDetector] = load_detector,
) -> Contenders:
    """Read the detectors ``weights``, run folders or files by name, for the images of ``source``.

    Raises:
        UserError: weights that cannot be read, or a detector of other classes than the data set's.
    """
    names = source.classes if isinstance(source, Dataset) else ()
    detectors = {name: load(path) for name, path in weights.items()}
    if isinstance(source, Dataset):
        for loaded in detectors.values():
            match_categories(loaded.classes, source)
    for loaded in detectors.values():
        loaded.detector.to(device)
    classes = dict.fromkeys([*names, *(c for loaded in detectors.values() for c in loaded.classes)])
    return Contenders(detectors, tuple(classes))


def named_interpolators(guide: Detector, sources: Sequence[str], weights: Sequence[Path]) -> dict[str, nn.Module]:
    """The interpolators to look at, by name, on the CPU.

    Args:
        guide: what they are to enlarge the features of.
        sources: kinds, of which a learned one is called untrained; runs of ``pretrain``, or of a detector with a
            learned interpolator in it; files of either.
        weights: runs or files of detectors whose interpolators are taken.

    Raises:
        UserError: no such kind or file, or one of another width than the guide's neck.
    """
    kinds = interpolator_kinds()
    runs = iter(run_names([*(Path(source) for source in sources if source not in kinds), *weights]))
    found: list[tuple[str, nn.Module]] = []
    for source in sources:
        module = resolve_interpolator(guide.preset, source, seed=0)[1]
        found.append((_kind_name(source, module) if source in kinds else _run_name(next(runs), module), module))
    for path in weights:
        module = load_detector(path).detector.neck.interpolator
        found.append((_run_name(next(runs), module), module))
    return dict(zip(distinct([name for name, _ in found]), (module for _, module in found), strict=True))


def run_names(paths: Sequence[Path]) -> list[str]:
    """A unique name for each run folder or file: the last part of its path, with as much before it as it takes.

    A file that every run has is called as its folder, unless other files of that are named too. A run of a comparison
    is called by its method too.
    """
    tails = [_parts(path.resolve()) for path in paths]
    tails = [
        (*tail[:-1], f"{tail[-1]}/{path.stem}") if tails.count(tail) > 1 and not path.is_dir() else tail
        for path, tail in zip(paths, tails, strict=True)
    ]
    return distinct([_shortest(tail, [other for other in tails if other != tail]) for tail in tails])


def _parts(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        return path.parts
    return path.parent.parts if path.stem in _OF_A_RUN else (*path.parent.parts, path.stem)


def _shortest(tail: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> str:
    """The fewest last parts that none of the others ends in."""
    length = 2 if _SEED.fullmatch(tail[-1]) else 1
    while length < len(tail) and any(other[-length:] == tail[-length:] for other in others):
        length += 1
    return "/".join(tail[-length:])


def _kind_name(kind: str, module: nn.Module) -> str:
    return f"{kind} (untrained)" if any(True for _ in module.parameters()) else kind


def _run_name(run: str, module: nn.Module) -> str:
    """With the kind of its interpolator, unless it speaks of it anyway."""
    kind = str(module.kind)
    return run if kind in run else f"{run} ({kind})"
