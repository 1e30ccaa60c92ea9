"""Datasets: the index, transforms, batches, the check of a dataset, and a generated one."""

from afictl.data.dataset import Dataset, Objects
from afictl.data.images import read_image
from afictl.data.layouts import load_dataset
from afictl.data.loader import EvalBatch, TrainBatch, eval_batches, train_batches
from afictl.data.shapes import make_shapes

__all__ = [
    "Dataset",
    "EvalBatch",
    "Objects",
    "TrainBatch",
    "eval_batches",
    "load_dataset",
    "make_shapes",
    "read_image",
    "train_batches",
]
