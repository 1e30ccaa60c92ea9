"""HTML report of a comparison: tables, plots, training curves, and a gallery of detections."""

from afictl.comparison.report.page import write_report

__all__ = ["write_report"]
