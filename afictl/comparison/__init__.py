"""Compare interpolators: the same training for each, then accuracy and price side by side."""

from afictl.comparison.answer import Answer, compare, compare_runs
from afictl.comparison.model import Comparison
from afictl.comparison.price_list import price_list
from afictl.comparison.specification import Contender, parse_contenders
from afictl.comparison.table import comparison_tables, notes

__all__ = [
    "Answer",
    "Comparison",
    "Contender",
    "compare",
    "compare_runs",
    "comparison_tables",
    "notes",
    "parse_contenders",
    "price_list",
]
