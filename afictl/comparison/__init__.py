"""Comparison of interpolators: equal training for each, and tables of accuracy and cost."""

from afictl.comparison.analysis.screen_tables import comparison_notes, comparison_tables
from afictl.comparison.cost.cost_list import list_costs
from afictl.comparison.experiment.specification import Method, TuningGrid, parse_methods
from afictl.comparison.experiment.tuning import parse_tuning
from afictl.comparison.pipeline import ComparisonOutcome, compare, compare_runs
from afictl.comparison.results import Comparison

__all__ = [
    "Comparison",
    "ComparisonOutcome",
    "Method",
    "TuningGrid",
    "compare",
    "compare_runs",
    "comparison_notes",
    "comparison_tables",
    "list_costs",
    "parse_methods",
    "parse_tuning",
]
