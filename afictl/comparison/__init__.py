"""Compare interpolators: the same training for each, then accuracy and price side by side."""

from afictl.comparison.compare import Contender, compare, parse_contenders
from afictl.comparison.table import Row, comparison_table, write_comparison

__all__ = ["Contender", "Row", "compare", "comparison_table", "parse_contenders", "write_comparison"]
