"""Distance of features of half-size images to the guide's features of the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from afictl.data import Dataset, eval_batches
from afictl.detectors import Detector
from afictl.evaluation.inference import in_eval_mode
from afictl.interpolators import Interpolator, build_interpolator
from afictl.presets import GuideFeatures
from afictl.progress import ProgressCallback
from afictl.training.adversarial import Pair, PyramidInterpolator
from afictl.training.guide_features import enlarged_pairs, guide_maps, same_size_pairs

FeatureDistance = Mapping[str, Mapping[str, Mapping[str, float]]]
"""method -> level -> measure -> value"""
_Sums = dict[str, Tensor]
"""level -> [sum of L1, sum of cosine, number of positions, number of images]"""

MAX_HELD_OUT = 200  # images of a distance report; more would hardly change it
_BASELINES = ("nearest", "bilinear", "bicubic")
_MIN_GAIN_PERCENT = 0.05  # the report shows one decimal


@torch.no_grad()
def measure_feature_distance(
    guide: Detector,
    interpolator: Interpolator,
    dataset: Dataset,
    *,
    features: GuideFeatures = "levels",
    limit: int | None,
    workers: int,
    progress: ProgressCallback,
    on_pairs: Callable[[Mapping[str, Pair]], None] | None = None,
) -> FeatureDistance:
    """Compare a learned interpolator with fixed ones on held-out images.

    Args:
        guide: gives the target features of an image and the coarse features of its half-size view.
        interpolator: named by its kind in the result; one that needs the fine map restricts all methods to the levels
            that have one.
        dataset: held-out images, of which the first ``limit`` are used.
        features: see ``guide_maps``.
        progress: called with the number of images done and of all images.
        on_pairs: called with the pairs of the learned interpolator for each image, by level.

    Returns:
        method -> level -> ``{"l1": mean absolute difference, "cosine": mean cosine of the channel vectors}``. Levels of
        which every map has a single position, between which nothing is interpolated, are left out if others are not.
    """
    methods = {kind: PyramidInterpolator(build_interpolator(kind, guide.neck.channels)) for kind in _BASELINES}
    methods[interpolator.kind] = learned = PyramidInterpolator(interpolator).eval()
    sums: dict[str, _Sums] = {name: {} for name in methods}
    device = next(guide.parameters()).device
    total = len(range(len(dataset))[:limit])
    batches = eval_batches(dataset, guide.input, workers=workers, limit=limit, half_view=True, device=device)
    for count, batch in enumerate(batches, 1):
        full, half = batch.images, batch.half_images or []
        real, (coarse, fine) = guide_maps(guide, full, features).maps, guide_maps(guide, half, features)
        coarse = {level: coarse[level] for level in learned.levels(coarse, fine)}
        for name, method in methods.items():
            pairs = enlarged_pairs(guide, method(coarse, fine), real, full, half)
            if method is learned and on_pairs is not None:
                on_pairs(pairs)
            _add(sums[name], pairs)
        progress(count, total)
    interpolator.train()
    return {name: _means(_interpolated(levels)) for name, levels in sums.items()}


@torch.no_grad()
def measure_student_distance(
    guide: Detector,
    student: Detector,
    dataset: Dataset,
    *,
    limit: int | None,
    workers: int,
    progress: ProgressCallback,
    on_pairs: Callable[[Mapping[str, Pair]], None],
) -> FeatureDistance:
    """Compare the levels of a detector of half-size images with those of the guide on held-out images.

    Args:
        guide: every second position of its levels of an image is the target.
        student: its levels of the half-size view; named by the kind of its interpolator in the result.
        dataset: held-out images, of which the first ``limit`` are used.
        progress: called with the number of images done and of all images.
        on_pairs: called with the pairs of each image, by level.

    Returns:
        As ``measure_feature_distance``, of one method.
    """
    sums: _Sums = {}
    device = next(guide.parameters()).device
    total = len(range(len(dataset))[:limit])
    batches = eval_batches(dataset, guide.input, workers=workers, limit=limit, half_view=True, device=device)
    with in_eval_mode(student):
        for count, batch in enumerate(batches, 1):
            full, half = batch.images, batch.half_images or []
            pairs = same_size_pairs(guide, student.pyramid(half), guide.pyramid(full), full, half)
            on_pairs(pairs)
            _add(sums, pairs)
            progress(count, total)
    return {student.preset.interpolator.kind: _means(sums)}


def mean_distance(distance: FeatureDistance) -> dict[str, float]:
    """Means over the levels: ``l1/afi``, ``cosine/nearest`` and so on."""
    return {
        f"{measure}/{method}": sum(values[measure] for values in levels.values()) / len(levels)
        for measure in ("l1", "cosine")
        for method, levels in distance.items()
    }


def distance_metrics(distance: FeatureDistance) -> dict[str, float]:
    """Means and every single value, named as in ``metrics.jsonl``: ``l1/afi``, ``l1/afi/p2`` and so on."""
    values_by_level = {
        f"{measure}/{method}/{level}": value
        for method, levels in distance.items()
        for level, values in levels.items()
        for measure, value in values.items()
    }
    return {**mean_distance(distance), **values_by_level}


def describe_distance(distance: FeatureDistance, kind: str) -> str:
    """Lines of text: a table, and whether the interpolator ``kind`` is closer than the best fixed one."""
    means = mean_distance(distance)
    best = min(_BASELINES, key=lambda baseline: means[f"l1/{baseline}"])
    change = 100 * (means[f"l1/{kind}"] / means[f"l1/{best}"] - 1)
    verdict = "closer to" if change < -_MIN_GAIN_PERCENT else "no closer to"
    advice = "" if change < -_MIN_GAIN_PERCENT else "; if it stays so, train longer: --set stage1.steps=N"
    return (
        f"{distance_table(distance)}\n"
        f"{kind} is {verdict} the guide than {best}, the best plain interpolation: L1 {change:+.1f} %{advice}"
    )


def distance_table(distance: FeatureDistance) -> str:
    """Lines of text: L1 and cosine by method and level."""
    levels = list(next(iter(distance.values())))
    width = max([10, *(len(method) + 1 for method in distance)])
    lines = ["distance to the guide's features on held-out images: L1 (cosine)"]
    lines.append(" " * width + "".join(f"{level:>16}" for level in (*levels, "mean")))
    means = mean_distance(distance)
    for method, values in distance.items():
        cells = [f"{values[level]['l1']:.4f} ({values[level]['cosine']:.3f})" for level in levels]
        cells.append(f"{means[f'l1/{method}']:.4f} ({means[f'cosine/{method}']:.3f})")
        lines.append(f"{method:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def position_distance(pair: Pair) -> tuple[Tensor, Tensor]:
    """Mean absolute difference and cosine of the channel vectors at every position, (N,h,w) float32 each."""
    fake, real = pair.fake.float(), pair.real.float()
    return (fake - real).abs().mean(dim=1), F.cosine_similarity(fake, real, dim=1)


def _add(sums: _Sums, pairs: Mapping[str, Pair]) -> None:
    """Add the masked positions of ``pairs`` to ``sums``."""
    for level, pair in pairs.items():
        mask = pair.mask[:, 0]
        l1, cosine = position_distance(pair)
        images = mask.new_tensor(float(len(mask)))
        values = torch.stack([(l1 * mask).sum(), (cosine * mask).sum(), mask.sum(), images]).double().cpu()
        sums[level] = sums[level] + values if level in sums else values


def _means(sums: _Sums) -> dict[str, dict[str, float]]:
    """level -> measure -> value"""
    return {
        level: {"l1": float(l1 / count), "cosine": float(cosine / count)}
        for level, (l1, cosine, count, _) in sums.items()
    }


def _interpolated(sums: _Sums) -> _Sums:
    """The levels of which a map has more than one position; all without such a level."""
    return {level: values for level, values in sums.items() if values[2] > values[3]} or sums
