"""COCO metrics of a detector, or of a file of predictions."""

from afictl.evaluation.coco import detect, evaluate
from afictl.evaluation.evaluators import EVALUATORS
from afictl.evaluation.metric import Evaluation, score_predictions

__all__ = ["EVALUATORS", "Evaluation", "detect", "evaluate", "score_predictions"]
