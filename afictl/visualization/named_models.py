"""Detectors and interpolators of a figure, by the titles of their panels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from afictl.data import Dataset
from afictl.data.media_files import unique_names
from afictl.data.transforms import resize_for
from afictl.detectors import Detector, to_original
from afictl.detectors.image_memory import require_image_memory
from afictl.evaluation.category_matching import match_categories
from afictl.evaluation.views import Views
from afictl.interpolators import Interpolator, kind_of_source
from afictl.training.initial_weights import find_interpolator_file, resolve_interpolator
from afictl.visualization.pictures import Picture
from afictl.weights import LoadedDetector, load_detector, load_interpolator

_SEED = re.compile(r"seed\d+")
_RUN_FILE_STEMS = ("best", "last", "interpolator")


@dataclass(frozen=True)
class NamedDetectors:
    """Detectors by the title of their panel, with a common list of classes."""

    detectors: Mapping[str, LoadedDetector]
    classes: tuple[str, ...]
    """Classes of the dataset first; label k of a detection from ``detect`` is ``classes[k - 1]``."""
    views: Views | None = None
    """Several views in which ``detect`` detects instead of one that is resized."""

    @classmethod
    def of(
        cls,
        detectors: Mapping[str, LoadedDetector],
        source: Dataset | Sequence[Picture],
        device: torch.device | str = "cpu",
        views: Views | None = None,
    ) -> NamedDetectors:
        """Move detectors to ``device`` and collect their classes and those of ``source``.

        Raises:
            UserError: a detector with other classes than the dataset, or too little memory for its images.
        """
        classes = dict.fromkeys(source.classes if isinstance(source, Dataset) else ())
        for loaded in detectors.values():
            if isinstance(source, Dataset):
                match_categories(loaded.classes, source)
            require_image_memory(loaded.preset, torch.device(device))
            loaded.detector.to(device)
            classes |= dict.fromkeys(loaded.classes)
        return cls(detectors, tuple(classes), views)

    @torch.no_grad()
    def detect(
        self, name: str, image: Tensor, threshold: float, drawn_hw: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """Detections of the detector ``name`` with a score of at least ``threshold``, on the CPU.

        Only their masks are pasted, at the size of the drawing: those of all detections on a large photograph, as
        ``predict`` gives them, take gigabytes.

        Args:
            name: key of ``detectors``.
            image: uint8 (3, H, W) RGB.
            threshold: minimum score.
            drawn_hw: height and width of the drawing, to which boxes and masks are scaled; None: boxes in pixels of
                the image, without masks.
        """
        loaded = self.detectors[name]
        if self.views is None:
            resized = resize_for(loaded.detector.input, image)
            (output,) = loaded.detector.detect([resized], masks=drawn_hw is not None)
        else:
            resized, output = image, self.views.detect(loaded.detector, image)
        size = drawn_hw or (image.shape[1], image.shape[2])
        output = to_original(output, (resized.shape[1], resized.shape[2]), size)
        detection = {key: values[output["scores"] >= threshold].cpu() for key, values in output.items()}
        mask_probs = detection.pop("mask_probs", None)
        if mask_probs is not None and drawn_hw is not None:
            detection["masks"] = loaded.detector.paste_masks(mask_probs, detection["boxes"], size)
        labels = [self.classes.index(loaded.classes[label - 1]) + 1 for label in detection["labels"].tolist()]
        return {**detection, "labels": torch.tensor(labels, dtype=torch.int64)}


def named_interpolators(guide: Detector, sources: Sequence[str], weights: Sequence[Path]) -> dict[str, Interpolator]:
    """Interpolators by the title of their panel, on the CPU.

    Args:
        guide: detector whose features are enlarged.
        sources: kinds (learned ones are titled as untrained), and runs or files with a learned interpolator.
        weights: runs or files of detectors whose interpolators are used.

    Raises:
        UserError: an unknown kind or file, a kind that is also an existing path, or an interpolator of another width
            than the guide's neck.
    """
    paths = iter(run_names([*(Path(source) for source in sources if kind_of_source(source) is None), *weights]))
    interpolators: list[tuple[str, Interpolator]] = []
    for source in sources:
        if kind_of_source(source) is None:
            module = load_interpolator(find_interpolator_file(source))
            name = _run_name(next(paths), module)
        else:
            module = resolve_interpolator(guide.preset, source, seed=0)[1]
            name = _kind_name(module)
        interpolators.append((name, module))
    for path in weights:
        module = load_detector(path).detector.neck.interpolator
        interpolators.append((_run_name(next(paths), module), module))
    names = unique_names([name for name, _ in interpolators])
    return dict(zip(names, (module for _, module in interpolators), strict=True))


def run_names(paths: Sequence[Path]) -> list[str]:
    """A unique name for each run folder or file: the last part of its path, with as many parents as necessary.

    A file that every run has gets the name of its folder, unless there is another file of that folder. The name of a
    run of a comparison includes its method.
    """
    tails = [_parts(path.resolve()) for path in paths]
    tails = [
        (*tail[:-1], f"{tail[-1]}/{path.stem}") if tails.count(tail) > 1 and not path.is_dir() else tail
        for path, tail in zip(paths, tails, strict=True)
    ]
    return unique_names([_shortest_suffix(tail, [other for other in tails if other != tail]) for tail in tails])


def _parts(path: Path) -> tuple[str, ...]:
    if path.is_dir():
        return path.parts
    return path.parent.parts if path.stem in _RUN_FILE_STEMS else (*path.parent.parts, path.stem)


def _shortest_suffix(tail: tuple[str, ...], other_tails: Sequence[tuple[str, ...]]) -> str:
    """The shortest suffix of ``tail`` that is not a suffix of another tail."""
    length = 2 if _SEED.fullmatch(tail[-1]) else 1
    while length < len(tail) and any(other[-length:] == tail[-length:] for other in other_tails):
        length += 1
    return "/".join(tail[-length:])


def _kind_name(module: Interpolator) -> str:
    return f"{module.kind} (untrained)" if module.learned else module.kind


def _run_name(run: str, module: Interpolator) -> str:
    """Name of the run, with the kind of its interpolator unless it contains the kind."""
    return run if module.kind in run else f"{run} ({module.kind})"
