"""Pictures of what detectors found, of the features they found it by, and of how they were trained."""

from afictl.visualization.comparisons import comparison_figures, draw_comparisons, most_different
from afictl.visualization.contenders import load_contenders, named_interpolators, run_names
from afictl.visualization.curves import plot_training
from afictl.visualization.detections import comparison_figure, contact_sheet, draw_detections
from afictl.visualization.disagreement import rank_by_disagreement
from afictl.visualization.features import feature_figures
from afictl.visualization.gradcam import gradcam_figures
from afictl.visualization.pictures import Picture, data_pictures, file_pictures

__all__ = [
    "Picture",
    "comparison_figure",
    "comparison_figures",
    "contact_sheet",
    "data_pictures",
    "draw_comparisons",
    "draw_detections",
    "feature_figures",
    "file_pictures",
    "gradcam_figures",
    "load_contenders",
    "most_different",
    "named_interpolators",
    "plot_training",
    "rank_by_disagreement",
    "run_names",
]
