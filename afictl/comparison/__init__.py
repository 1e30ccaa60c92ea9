"""Compare interpolators: the same training for each, then accuracy and price side by side."""

from afictl.comparison.answer import Answer, compare
from afictl.comparison.model import Comparison
from afictl.comparison.specification import Contender, parse_contenders
from afictl.comparison.table import comparison_tables, notes

__all__ = ["Answer", "Comparison", "Contender", "compare", "comparison_tables", "notes", "parse_contenders"]
