"""From finished runs to the answer: means over seeds, differences to the baseline, verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from afictl.comparison.analysis.statistics import PairedDifference, claims, deviation, paired_difference
from afictl.comparison.analysis.verdicts import verdict_sentence
from afictl.comparison.results import Comparison, ComparisonRun, Cost, Difference, MethodResult
from afictl.data import Dataset
from afictl.errors import UserError, did_you_mean


@dataclass(frozen=True)
class MeasuredMethod:
    """What is known of one interpolator before it is compared."""

    name: str
    source: str
    runs: tuple[ComparisonRun, ...]
    cost: Cost | None


def choose_baseline(names: Sequence[str], wanted: str | None) -> str:
    """The method that the others are compared with: ``wanted``, or ``nearest``, or the first.

    Raises:
        UserError: ``wanted`` is not among ``names``.
    """
    if wanted is not None and wanted not in names:
        raise UserError(f"--baseline: no method is called '{wanted}'{did_you_mean(wanted, names)}")
    return wanted or ("nearest" if "nearest" in names else names[0])


def summarize(
    entries: Sequence[MeasuredMethod], baseline: str, differing: Sequence[str] = ()
) -> tuple[MethodResult, ...]:
    """The methods, the baseline first.

    A difference is claimed where Student's t over the seeds rejects chance at 5 %, by Holm's rule over the methods,
    for each metric by itself.

    Args:
        entries: one for each interpolator.
        baseline: the name of one of them.
        differing: conditions that were not the same for all; every verdict names them.
    """
    base = next(entry for entry in entries if entry.name == baseline)
    others = [entry for entry in entries if entry is not base]
    paired = {entry.name: _differences(entry, base) for entry in others}
    claimed = {
        metric: claims({name: found[metric].p for name, found in paired.items() if metric in found})
        for metric in _metrics([base])
    }
    judged = sum(any(each.low is not None for each in found.values()) for found in paired.values())
    methods = [_method(base)]
    for entry in others:
        difference = {
            metric: Difference(found.mean, found.low, found.high, found.count, entry.name in claimed[metric])
            for metric, found in paired[entry.name].items()
        }
        method = replace(_method(entry), difference=difference)
        said = verdict_sentence(method, methods[0], judged, differing) if entry.runs else ""
        methods.append(replace(method, verdict=said))
    return tuple(methods)


def _method(entry: MeasuredMethod) -> MethodResult:
    metrics = _metrics([entry])
    values = {metric: [v for cell in entry.runs if (v := cell.metrics.get(metric)) is not None] for metric in metrics}
    return MethodResult(
        entry.name,
        entry.source,
        entry.runs,
        entry.cost,
        mean={metric: statistics.fmean(known) if known else None for metric, known in values.items()},
        deviation={metric: deviation(known) for metric, known in values.items()},
    )


def _metrics(entries: Sequence[MeasuredMethod]) -> list[str]:
    return list(dict.fromkeys(metric for entry in entries for cell in entry.runs for metric in cell.metrics))


def _differences(entry: MeasuredMethod, base: MeasuredMethod) -> dict[str, PairedDifference]:
    """By metric, over the seeds that both have."""
    found = {}
    for metric in _metrics([base]):
        ours, theirs = _by_seed(entry, metric), _by_seed(base, metric)
        common = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        if common:
            found[metric] = paired_difference(common)
    return found


def _by_seed(entry: MeasuredMethod, metric: str) -> Mapping[int, float]:
    return {cell.seed: value for cell in entry.runs if (value := cell.metrics.get(metric)) is not None}


def build_comparison(
    preset: str,
    index: Dataset | None,
    entries: Sequence[MeasuredMethod],
    conditions: Mapping[str, str],
    baseline: str | None,
    differing: Sequence[str] = (),
) -> Comparison:
    """The comparison; a baseline of which nothing is known gives way to the usual one."""
    present = [entry.name for entry in entries]
    chosen = choose_baseline(present, baseline if baseline in present else None)
    return Comparison(
        preset=preset,
        annotation_file=index.annotation_file if index else Path(),
        image_dir=index.image_dir if index else Path(),
        baseline=chosen,
        settings=conditions,
        methods=summarize(entries, chosen, differing),
    )
