"""The whole story on generated data: a guide, adversarial pre-training, and nearest against AFI."""

from __future__ import annotations

import json
from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison.experiment.specification import Method
from afictl.comparison.pipeline import compare
from afictl.comparison.results import Comparison
from afictl.data import load_coco
from afictl.data.shapes import make_shapes
from afictl.errors import UserError
from afictl.presets import load_preset
from afictl.run_folder import FEATURE_DISTANCE
from afictl.training import InitialWeights, finetune, pretrain
from afictl.visualization import write_side_by_side
from afictl.visualization.training_curves import plot_feature_distance, plot_training

_PRESET = "faster-rcnn-r18-fpn-tiny"
_IMAGE = 160
_IMAGES = {"train": 240, "val": 48}
_DRAWN = 6
_SETTINGS = (
    f"input.min_sizes=[{_IMAGE}]",
    f"input.test_size={_IMAGE}",
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
    """Run the story in ``output`` and return its comparison; a stopped demo goes on where it was.

    Leaves the generated ``data``, the runs ``guide`` and ``pretrain``, the comparison ``compare`` and the pictures
    ``plots`` and ``detections``.

    Raises:
        UserError: ``output`` holds something else.
    """
    first = load_preset(_PRESET, (*_SETTINGS, f"train.steps={_GUIDE_STEPS}"))
    second = load_preset(_PRESET, (*_SETTINGS, f"train.steps={_FINETUNE_STEPS}"))
    data = output / "data"
    if not data.exists():
        if output.exists() and any(output.iterdir()):
            raise UserError(f"{output} is not empty and holds no demo: choose another --output")
        make_shapes(data, **_IMAGES, size=_IMAGE, seed=seed)
    _title(fabric, "1/4  A guide: the detector with nearest interpolation, from scratch")
    finetune(
        fabric, first, data, output / "guide", InitialWeights("nearest"), seed=seed, resume=(output / "guide").exists()
    )
    _title(fabric, "2/4  The AF interpolator, adversarially on the guide's features (stages 1 and 2)")
    interpolator = pretrain(
        fabric, output / "guide", data, output / "pretrain", seed=seed, resume=(output / "pretrain").exists()
    )
    _title(fabric, "3/4  The same fine-tuning with nearest and with AFI")
    contenders = [Method("nearest", "nearest"), Method("afi", str(interpolator))]
    answer = compare(fabric, second, data, contenders, output / "compare", weights=output / "guide", seeds=(seed,))
    if answer.comparison is None or answer.failures:
        raise UserError("; ".join(f"{name}: {problem}" for name, problem in answer.failures.items()))
    _title(fabric, "4/4  Pictures")
    runs = {contender.name: output / "compare" / contender.name / f"seed{seed}" for contender in contenders}
    plot_training({"guide": output / "guide", **runs}, output / "plots" / "training.png")
    distance = json.loads((output / "pretrain" / "stage1" / FEATURE_DISTANCE).read_text())
    plot_feature_distance(distance, output / "plots" / "features.png")
    write_side_by_side(runs, load_coco(data, "val"), output / "detections", limit=_DRAWN)
    return answer.comparison


def _title(fabric: Fabric, text: str) -> None:
    fabric.print(f"\n{text}")
