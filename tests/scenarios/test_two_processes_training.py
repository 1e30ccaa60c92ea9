"""Two processes with half of a batch each pre-train and fine-tune as one process with the whole batch."""

from pathlib import Path

import pytest
from lightning_fabric import Fabric

from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune, pretrain
from tests.helpers.narrow_presets import narrow_preset
from tests.helpers.rank_runs import IMAGENET_PIXELS, assert_equal_runs
from tests.helpers.ranks import on_ranks
from tests.helpers.tiny_runs import SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 5
SETTINGS = [
    *SMALL,
    *IMAGENET_PIXELS,
    "input.min_sizes=[56,72,96]",
    *(f"{stage}.{key}={STEPS}" for stage in ("train", "stage1", "stage2") for key in ("steps", "eval_every")),
    "train.ema_decay=0.9",
    *(f"{stage}.batch_size=4" for stage in ("train", "stage1", "stage2")),
]
MODULES = {"guide": "detector", "stage1": "generator", "stage2": "student"}


def train_guide(fabric: Fabric, data: Path, folder: Path) -> None:
    preset = narrow_preset("mask-rcnn-r18-fpn-tiny", *SETTINGS)
    finetune(fabric, preset, data, folder / "guide", InitialWeights("nearest"), seed=3)


def train_interpolator(fabric: Fabric, data: Path, folder: Path, guide: Path) -> None:
    pretrain(fabric, guide, data, folder, seed=3)


def train_all(fabric: Fabric, data: Path, folder: Path, guide: Path) -> None:
    train_guide(fabric, data, folder)
    train_interpolator(fabric, data, folder, guide)


@pytest.fixture(scope="module")
def runs(fabric: Fabric, shapes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of the runs of one process and of two, both with batch norm and with the same guide."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train_guide(fabric, shapes_dir, one)
    train_interpolator(fabric, shapes_dir, one, one / "guide")
    on_ranks(2, train_all, shapes_dir, two, one / "guide")
    return one, two


@pytest.mark.parametrize("stage", MODULES)
def test_every_stage_of_two_processes_equals_one(runs: tuple[Path, Path], stage: str) -> None:
    one, two = (folder / stage for folder in runs)
    # AdamW makes steps of the rounding errors that are the gradients of a bias before batch norm.
    assert_equal_runs(two, one, STEPS, MODULES[stage], atol=1e-3)
    evaluations = (read_metrics(run)[-1] for run in (two, one))
    metrics, expected = ({name: value or 0.0 for name, value in metrics.items()} for metrics in evaluations)
    assert metrics == pytest.approx(expected, rel=1e-3)


def test_the_average_of_the_weights_of_two_processes_equals_that_of_one(runs: tuple[Path, Path]) -> None:
    one, two = (folder / "guide" for folder in runs)
    assert_equal_runs(two, one, STEPS, "average", atol=1e-3)
