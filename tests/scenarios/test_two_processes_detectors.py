"""Ten steps of several processes or micro-batches give the losses and weights of one pass over the total batch."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from afictl.data import TrainBatch
from afictl.detectors import Detector, build_detector
from afictl.detectors.head import Target
from afictl.training.accumulation import backward_in_micro_batches
from afictl.training.hardware import hardware_record
from afictl.training.loop import fit
from afictl.training.optimization import TrainableModule
from afictl.training.run_writer import RunWriter
from afictl.training.stage import Stage
from afictl.training.sync_batch_norm import synchronize_batch_norms
from afictl.training.sync_dropout import synchronize_dropouts
from tests.helpers.backbones import NARROW
from tests.helpers.backbones import SWIN as SWIN_NAME
from tests.helpers.narrow_presets import narrow_preset
from tests.helpers.rank_runs import IMAGENET_PIXELS, assert_equal_runs
from tests.helpers.ranks import on_ranks
from tests.helpers.slow_cases import others_slow
from tests.helpers.targets import no_object

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 10
RECIPE = [
    "backbone.name=test_resnet",
    "backbone.norm=frozen-batch",
    f"train.steps={STEPS}",
    f"train.eval_every={STEPS}",
    "train.optimizer=sgd",
    "train.lr=0.002",
    "train.warmup_steps=2",
    *IMAGENET_PIXELS,
    "detector.anchor_sizes=[16,24,32,48,64]",
]
REGIONS = ["detector.rpn_batch=16", "detector.proposals_train=40", "detector.roi_batch=12"]
CASES = {
    "faster-rcnn": ("faster-rcnn-r18-fpn-tiny", [*RECIPE, *REGIONS]),
    "mask-rcnn": ("mask-rcnn-r18-fpn-tiny", [*RECIPE, *REGIONS]),
    "cascade-mask-rcnn": (
        "mask-rcnn-r18-fpn-tiny",
        [*RECIPE, *REGIONS, "detector.kind=cascade-mask-rcnn", "neck.kind=pafpn"],
    ),
    "faster-rcnn-bifpn": ("faster-rcnn-r18-bifpn-tiny", [*RECIPE, *REGIONS]),
    "retinanet": ("retinanet-r18-fpn-tiny", RECIPE),
    "fcos": ("fcos-r18-fpn-tiny", RECIPE[:-1]),
    "centermask": ("centermask-r18-bifpn-tiny", [*RECIPE[:-1], "neck.kind=fpn", "detector.roi_batch=12"]),
}
SWIN_OPTIONS = {**NARROW, "depths": [1, 1, 2, 1], "drop_path_rate": 0.4, "proj_drop_rate": 0.2}
SWIN = [f"backbone={{name: {SWIN_NAME}, options: {json.dumps(SWIN_OPTIONS)}, norm: frozen-batch, pretrained: false}}"]
CASES["fcos-swin"] = ("fcos-r18-fpn-tiny", [*RECIPE[2:-1], *SWIN])
BLOCKS = [
    "backbone.name=resnet10t",
    "backbone.options={zero_init_last: false, drop_block_rate: 0.3, drop_path_rate: 0.3}",
]
CASES["fcos-drop-block"] = ("fcos-r18-fpn-tiny", [*RECIPE[1:-1], *BLOCKS])
ACCUMULATED = {"faster-rcnn": 4, "retinanet": 2, "fcos": 2, "fcos-drop-block": 4}
"""Micro-batches of a process that trains the same."""
SIZES = [(64, 96), (70, 50), (97, 61), (33, 120)]
# Objects of each image in a step: one image without any, the last ranks without any, and at the end a batch without.
OBJECTS = [*[(3, 1, 2, 4), (2, 0, 1, 3), (4, 2, 0, 0)] * 3, (0, 0, 0, 0)]


def random_target(size: tuple[int, int], count: int, generator: torch.Generator) -> Target:
    """An image's ``count`` objects, whose masks fill the middle of their boxes."""
    if not count:
        return no_object(*size)
    limits = torch.tensor([size[1], size[0]] * 2)
    corners = torch.rand(count, 2, generator=generator) * 0.6
    sides = 0.1 + torch.rand(count, 2, generator=generator) * 0.3
    boxes = torch.cat((corners, corners + sides), dim=1) * limits
    masks = torch.zeros(count, *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = 1
    return {"boxes": boxes, "labels": torch.randint(1, 4, (count,), generator=generator), "masks": masks}


def batch(step: int, images: slice) -> TrainBatch:
    """Some images of the total batch of ``step``."""
    generator = torch.Generator().manual_seed(step)
    sizes = [SIZES[(step + k) % len(SIZES)] for k in range(len(SIZES))]
    pixels = [torch.rand(3, *size, generator=generator) for size in sizes]
    counts = OBJECTS[step]
    targets = [random_target(*pair, generator) for pair in zip(sizes, counts, strict=True)]
    return TrainBatch(pixels[images], targets[images], None, None, [0, 1, 2, 3][images])


def train(fabric: Fabric, folder: Path, case: str, batch_size: int = 4, micro_batches: int = 1) -> None:
    """Train on the share of this rank, and write the logged losses and the weights to ``folder``."""
    name, settings = CASES[case]
    torch.manual_seed(0)
    detector = build_detector(narrow_preset(name, *settings), num_classes=3)
    run = RunWriter(fabric, folder, {"hardware": hardware_record(fabric)}, resume=False)
    share = batch_size // fabric.world_size
    images = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
    fit(fabric, run, detector.preset.train, stage_of(fabric, detector, images, micro_batches), seed=5)


def stage_of(fabric: Fabric, detector: Detector, images: slice, micro_batches: int) -> Stage:
    recipe = detector.preset.train
    synchronize_batch_norms(fabric, detector)
    synchronize_dropouts(fabric, detector, micro_batches)
    trainable = TrainableModule(fabric, detector, recipe, recipe.clip_norm)

    def batches(start: int) -> Iterator[TrainBatch]:
        return (batch(step, images) for step in range(start, STEPS))

    def step(part: TrainBatch) -> dict[str, Tensor]:
        groups = [len(part.images)]
        losses = backward_in_micro_batches(fabric, trainable, part.images, part.targets, micro_batches, groups)
        trainable.optimizer_step()
        return losses

    return Stage(
        name="test",
        modules={"detector": trainable},
        step=step,
        batches=batches,
        evaluate=lambda progress: {},
        score=lambda metrics: 0.0,
        export=lambda path, description: None,
    )


QUICK = ("mask-rcnn", "retinanet")
"""Cases that are trained in every run of the tests; the others in the slow one."""
OTHERS = tuple(case for case in CASES if case not in QUICK)


def train_all(fabric: Fabric, folder: Path, cases: tuple[str, ...]) -> None:
    for case in cases:
        train(fabric, folder / case, case)
    if "retinanet" in cases:
        train(fabric, folder / "micro", "retinanet", micro_batches=2)


@pytest.fixture(scope="module")
def runs_of_two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the runs of two processes that contains a case; all quick ones, or all others, are trained at once."""

    @cache
    def trained(cases: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("two")
        on_ranks(2, train_all, folder, cases)
        return folder

    return lambda case: trained(QUICK if case in QUICK else OTHERS)


@pytest.mark.parametrize("case", others_slow(CASES, QUICK))
def test_two_processes_and_micro_batches_train_as_one(
    fabric: Fabric, runs_of_two: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    two = runs_of_two(case)
    train(fabric, tmp_path / "one", case)
    assert_equal_runs(two / case, tmp_path / "one", STEPS, "detector", atol=1e-5)
    if case in ACCUMULATED:
        train(fabric, tmp_path / "micro", case, micro_batches=ACCUMULATED[case])
        assert_equal_runs(tmp_path / "micro", tmp_path / "one", STEPS, "detector", atol=1e-5)
    if case == "retinanet":
        assert_equal_runs(two / "micro", tmp_path / "one", STEPS, "detector", atol=1e-5)


def test_three_processes_train_as_one(fabric: Fabric, tmp_path: Path) -> None:
    on_ranks(3, train, tmp_path / "three", "mask-rcnn", 3)
    train(fabric, tmp_path / "one", "mask-rcnn", 3)
    assert_equal_runs(tmp_path / "three", tmp_path / "one", STEPS, "detector", atol=1e-5)
