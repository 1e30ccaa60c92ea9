"""COCO metrics of a detector, or of a file of predictions."""

from afictl.evaluation.evaluators import EVALUATORS
from afictl.evaluation.inference import detect, evaluate
from afictl.evaluation.scoring import Evaluation, score_predictions

__all__ = ["EVALUATORS", "Evaluation", "detect", "evaluate", "score_predictions"]
