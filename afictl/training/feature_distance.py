"""Distance of the enlarged features of half-size images to the guide's features of the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from afictl.data import Dataset, eval_batches
from afictl.detectors import Detector
from afictl.interpolators import Interpolator, build_interpolator
from afictl.presets import GuideFeatures
from afictl.progress import ProgressCallback
from afictl.training.adversarial import Pair, PyramidInterpolator
from afictl.training.guide_features import enlarged_pairs, guide_maps

FeatureDistance = Mapping[str, Mapping[str, Mapping[str, float]]]
"""method -> level -> measure -> value"""

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
        method -> level -> ``{"l1": mean absolute difference, "cosine": mean cosine of the channel vectors}``.
    """
    methods = {kind: PyramidInterpolator(build_interpolator(kind, guide.neck.channels)) for kind in _BASELINES}
    methods[interpolator.kind] = learned = PyramidInterpolator(interpolator).eval()
    sums: dict[str, dict[str, Tensor]] = {name: {} for name in methods}
    device = next(guide.parameters()).device
    total = len(range(len(dataset))[:limit])
    for done, batch in enumerate(eval_batches(dataset, guide.input, workers=workers, limit=limit, half_view=True), 1):
        full, half = [i.to(device) for i in batch.images], [i.to(device) for i in batch.half_images or ()]
        real, (coarse, fine) = guide_maps(guide, full, features).maps, guide_maps(guide, half, features)
        coarse = {level: coarse[level] for level in learned.levels(coarse, fine)}
        for name, method in methods.items():
            pairs = enlarged_pairs(guide, method(coarse, fine), real, full, half)
            if method is learned and on_pairs is not None:
                on_pairs(pairs)
            for level, pair in pairs.items():
                sums[name][level] = sums[name].get(level, 0) + _sums(pair)
        progress(done, total)
    interpolator.train()
    return {
        name: {level: {"l1": float(s[0] / s[2]), "cosine": float(s[1] / s[2])} for level, s in levels.items()}
        for name, levels in sums.items()
    }


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
    levels = list(distance[kind])
    width = max(10, *(len(method) + 1 for method in distance))
    lines = ["distance to the guide's features on held-out images: L1 (cosine)"]
    lines.append(" " * width + "".join(f"{level:>16}" for level in (*levels, "mean")))
    means = mean_distance(distance)
    for method, values in distance.items():
        cells = [f"{values[level]['l1']:.4f} ({values[level]['cosine']:.3f})" for level in levels]
        cells.append(f"{means[f'l1/{method}']:.4f} ({means[f'cosine/{method}']:.3f})")
        lines.append(f"{method:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    best = min(_BASELINES, key=lambda baseline: means[f"l1/{baseline}"])
    change = 100 * (means[f"l1/{kind}"] / means[f"l1/{best}"] - 1)
    verdict = "closer to" if change < -_MIN_GAIN_PERCENT else "no closer to"
    lines.append(f"{kind} is {verdict} the guide than {best}, the best plain interpolation: L1 {change:+.1f} %")
    return "\n".join(lines)


def position_distance(pair: Pair) -> tuple[Tensor, Tensor]:
    """Mean absolute difference and cosine of the channel vectors at every position, (N,h,w) float32 each."""
    fake, real = pair.fake.float(), pair.real.float()
    return (fake - real).abs().mean(dim=1), F.cosine_similarity(fake, real, dim=1)


def _sums(pair: Pair) -> Tensor:
    """[sum of L1, sum of cosine, number of positions] over the masked positions."""
    mask = pair.mask[:, 0]
    l1, cosine = position_distance(pair)
    return torch.stack([(l1 * mask).sum(), (cosine * mask).sum(), mask.sum()]).double().cpu()
