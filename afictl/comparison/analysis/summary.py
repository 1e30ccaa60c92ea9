"""Summary of measured methods: means over seeds, differences to the baseline, and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from afictl.comparison.analysis.statistics import PairedDifference, deviation, paired_difference, significant
from afictl.comparison.analysis.verdicts import verdict_sentence
from afictl.comparison.results import Comparison, Difference, MethodResult
from afictl.data import Dataset
from afictl.errors import UserError, did_you_mean


def choose_baseline(names: Sequence[str], requested: str | None) -> str:
    """The method that the others are compared with: ``requested``, or ``nearest``, or the first.

    Raises:
        UserError: ``requested`` is not among ``names``.
    """
    if requested is not None and requested not in names:
        raise UserError(f"--baseline: no method is called '{requested}'{did_you_mean(requested, names)}")
    return requested or ("nearest" if "nearest" in names else names[0])


def build_comparison(
    preset: str,
    dataset: Dataset | None,
    methods: Sequence[MethodResult],
    settings: Mapping[str, str],
    baseline: str | None,
    unequal_keys: Sequence[str] = (),
    cost_basis: Mapping[str, object] | None = None,
) -> Comparison:
    """Summarize runs and costs of methods as a ``Comparison``; see ``summarize_methods``.

    A baseline without any finished run is replaced by the default one.
    """
    names = [method.name for method in methods]
    present_baseline = choose_baseline(names, baseline if baseline in names else None)
    return Comparison(
        preset=preset,
        held_out=dataset,
        baseline=present_baseline,
        settings=settings,
        methods=summarize_methods(methods, present_baseline, unequal_keys),
        cost_basis=cost_basis or {},
    )


def summarize_methods(
    methods: Sequence[MethodResult], baseline: str, unequal_keys: Sequence[str] = ()
) -> tuple[MethodResult, ...]:
    """Add means, deviations, differences and verdicts to the methods; the baseline comes first.

    A difference is claimed where Student's t test over the seeds is significant at 5 %, by Holm's rule over the
    methods, separately for each metric.

    Args:
        methods: runs and costs.
        baseline: name of one of ``methods``.
        unequal_keys: settings that are not equal for all runs; every verdict lists them.
    """
    base = next(method for method in methods if method.name == baseline)
    compared_methods = [method for method in methods if method is not base]
    differences_by_method = {method.name: _paired_differences(method, base) for method in compared_methods}
    claimed_methods = {
        metric: significant({name: items[metric].p for name, items in differences_by_method.items() if metric in items})
        for metric in _metrics(base)
    }
    num_tested = sum(any(item.low is not None for item in items.values()) for items in differences_by_method.values())
    results = [_with_means(base)]
    for method in compared_methods:
        difference = {
            metric: Difference(
                item.mean, item.low, item.high, item.count, method.name in claimed_methods[metric], item.deviation
            )
            for metric, item in differences_by_method[method.name].items()
        }
        result = replace(_with_means(method), difference=difference)
        verdict = verdict_sentence(result, results[0], num_tested, unequal_keys) if method.runs else ""
        results.append(replace(result, verdict=verdict))
    return tuple(results)


def _with_means(method: MethodResult) -> MethodResult:
    values = {metric: list(_by_seed(method, metric).values()) for metric in _metrics(method)}
    return replace(
        method,
        mean={metric: statistics.fmean(numbers) if numbers else None for metric, numbers in values.items()},
        deviation={metric: deviation(numbers) for metric, numbers in values.items()},
    )


def _metrics(method: MethodResult) -> list[str]:
    return list(dict.fromkeys(metric for run in method.runs for metric in run.metrics))


def _paired_differences(method: MethodResult, base: MethodResult) -> dict[str, PairedDifference]:
    """Difference by metric, over the seeds that both methods have."""
    differences_by_metric = {}
    for metric in _metrics(base):
        values, references = _by_seed(method, metric), _by_seed(base, metric)
        differences = [values[seed] - references[seed] for seed in values if seed in references]
        if differences:
            differences_by_metric[metric] = paired_difference(differences)
    return differences_by_metric


def _by_seed(method: MethodResult, metric: str) -> dict[int, float]:
    return {run.seed: value for run in method.runs if (value := run.metrics.get(metric)) is not None}
