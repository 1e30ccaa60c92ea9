"""Figures of detections, pyramid features, Grad-CAM, training curves and evaluation."""

from afictl.visualization.detections import contact_sheet, draw_detections
from afictl.visualization.disagreement import rank_by_disagreement
from afictl.visualization.features import feature_figures
from afictl.visualization.gradcam import gradcam_figures
from afictl.visualization.named_models import NamedDetectors, named_interpolators, run_names
from afictl.visualization.pictures import Picture, dataset_pictures, file_pictures
from afictl.visualization.side_by_side import rank_pictures, side_by_side_figures, write_side_by_side
from afictl.visualization.training_curves import plot_training

__all__ = [
    "NamedDetectors",
    "Picture",
    "contact_sheet",
    "dataset_pictures",
    "draw_detections",
    "feature_figures",
    "file_pictures",
    "gradcam_figures",
    "named_interpolators",
    "plot_training",
    "rank_by_disagreement",
    "rank_pictures",
    "run_names",
    "side_by_side_figures",
    "write_side_by_side",
]
