"""Pictures of what a detector found."""

from afictl.visualization.detections import comparison_figure, draw_detections

__all__ = ["comparison_figure", "draw_detections"]
