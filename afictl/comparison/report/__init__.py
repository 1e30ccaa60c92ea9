"""HTML report of a comparison: tables, plots, training curves, and the images on which methods differ most."""

from afictl.comparison.report.page import write_report

__all__ = ["write_report"]
