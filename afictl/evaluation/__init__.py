"""COCO metrics of a detector, or of a file of predictions."""

from afictl.evaluation.coco import evaluate
from afictl.evaluation.metric import EVALUATORS, Evaluation, score_predictions

__all__ = ["EVALUATORS", "Evaluation", "evaluate", "score_predictions"]
