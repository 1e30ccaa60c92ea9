"""Datasets: the index, transforms, batches, the check of a dataset, and a generated one.

The names of ``loader`` are imported on first use: they need torchvision, whose import takes longer than the check of a
small dataset.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from afictl.data.dataset import Dataset, Objects
from afictl.data.images import read_image
from afictl.data.layouts import load_dataset
from afictl.data.shapes import make_shapes

if TYPE_CHECKING:
    from afictl.data.loader import EvalBatch, TrainBatch, eval_batches, train_batches
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return getattr(import_module("afictl.data.loader"), name)
        raise AttributeError(f"module 'afictl.data' has no attribute {name!r}")


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
