"""Compare interpolators: the same training for each, then accuracy and price side by side."""

from afictl.comparison.grid import Contender, compare, parse_contenders
from afictl.comparison.table import Row, comparison_tables, write_comparison

__all__ = ["Contender", "Row", "compare", "comparison_tables", "parse_contenders", "write_comparison"]
