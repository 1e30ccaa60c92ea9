"""``afictl demo`` on generated shapes: train a guide, pre-train AFI on its features, compare it with nearest."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.experiment.specification import Method
from afictl.comparison.pipeline import compare
from afictl.comparison.results import Comparison
from afictl.data import load_dataset
from afictl.data.shapes import make_shapes
from afictl.errors import UserError
from afictl.folder_lock import locked_folder
from afictl.presets import load_preset
from afictl.run_folder import FEATURE_DISTANCE, is_vacant
from afictl.run_records import read_feature_distance
from afictl.training import InitialWeights, finetune, pretrain
from afictl.visualization import write_side_by_side
from afictl.visualization.training_curves import plot_feature_distance, plot_training

_PRESET = "faster-rcnn-r18-fpn-tiny"
_IMAGE_SIZE_PX = 160
_NUM_IMAGES = {"train": 240, "val": 48}
_MAX_FIGURES = 6
_OVERRIDES = (
    f"input.min_sizes=[{_IMAGE_SIZE_PX}]",
    f"input.test_size={_IMAGE_SIZE_PX}",
    "detector.anchor_sizes=[8, 16, 32, 64, 128]",
    "train.warmup_steps=10",
    "train.eval_every=100",
    "stage1.steps=30",
    "stage1.eval_every=30",
    "stage1.warmup_steps=4",
    "stage2.steps=20",
    "stage2.eval_every=20",
    "stage2.warmup_steps=4",
)
_GUIDE_STEPS, _FINETUNE_STEPS = 200, 100


def run_demo(fabric: Fabric, output: Path, seed: int = 0) -> Comparison:
    """Run the demo in ``output``, or continue an interrupted one, and return its comparison.

    Writes the generated ``data``, the runs ``guide`` and ``pretrain``, the comparison ``compare`` and the figures
    ``plots`` and ``detections``.

    Raises:
        UserError: ``output`` has other content, or another process writes to it.
    """
    with locked_folder(output):
        return _run_demo(fabric, output, seed)


def _run_demo(fabric: Fabric, output: Path, seed: int) -> Comparison:
    guide_preset = load_preset(_PRESET, (*_OVERRIDES, f"train.steps={_GUIDE_STEPS}"))
    preset = load_preset(_PRESET, (*_OVERRIDES, f"train.steps={_FINETUNE_STEPS}"))
    data, guide, pretraining, comparison = (output / name for name in ("data", "guide", "pretrain", "compare"))
    if not data.exists():
        if not is_vacant(output):
            raise UserError(f"{output} is not empty and holds no demo: choose another --output")
        make_shapes(data, **_NUM_IMAGES, size=_IMAGE_SIZE_PX, seed=seed)
    fabric.print("\n1/4  A guide: the detector with nearest interpolation, from scratch")
    finetune(fabric, guide_preset, data, guide, InitialWeights("nearest"), seed=seed, resume=guide.exists())
    fabric.print("\n2/4  The AF interpolator, adversarially on the guide's features (stages 1 and 2)")
    interpolator = pretrain(fabric, guide, data, pretraining, seed=seed, resume=pretraining.exists())
    fabric.print("\n3/4  The same fine-tuning with nearest and with AFI")
    methods = [Method("nearest", "nearest"), Method("afi", str(interpolator))]
    outcome = compare(fabric, preset, data, methods, comparison, weights=guide, seeds=(seed,))
    if outcome.comparison is None or outcome.failures:
        raise UserError("; ".join(f"{run}: {failure}" for run, failure in outcome.failures.items()))
    fabric.print("\n4/4  Pictures")
    runs = {method.name: method.runs[0].folder for method in outcome.comparison.methods}
    plot_training({"guide": guide, **runs}, output / "plots" / "training.png")
    distance = read_feature_distance(pretraining / "stage1" / FEATURE_DISTANCE)
    plot_feature_distance(distance, output / "plots" / "features.png")
    write_side_by_side(runs, load_dataset(data, "val"), output / "detections", limit=_MAX_FIGURES)
    return outcome.comparison
