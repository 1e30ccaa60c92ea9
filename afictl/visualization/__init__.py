"""Pictures of what detectors found and of how they were trained."""

from afictl.visualization.comparisons import draw_comparisons, run_names
from afictl.visualization.detections import comparison_figure, comparison_panels, contact_sheet, draw_detections
from afictl.visualization.pictures import Picture, data_pictures, file_pictures

__all__ = [
    "Picture",
    "comparison_figure",
    "comparison_panels",
    "contact_sheet",
    "data_pictures",
    "draw_comparisons",
    "draw_detections",
    "file_pictures",
    "run_names",
]
