"""The one HTML file that a comparison leaves: tables, plots, curves, and the images where methods differ most."""

from afictl.comparison.report.page import write_report

__all__ = ["write_report"]
