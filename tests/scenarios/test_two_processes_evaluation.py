"""Two processes with a share of the images each find what one process finds."""

import json
from dataclasses import dataclass

import pytest
import torch
from lightning_fabric import Fabric

from afictl.data import load_coco, make_shapes
from afictl.detectors import build_detector
from afictl.distributed import Runtime, all_gather
from afictl.errors import UserError
from afictl.evaluation import evaluate
from afictl.presets import load_preset
from tests.helpers.ranks import on_two_ranks

IMAGES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=IMAGES, size=64)


def detector_of(index):
    torch.manual_seed(0)
    settings = ["input.min_sizes=[64]", "input.test_size=64", "detector.score_threshold=0.0"]
    preset = load_preset("mask-rcnn-r18-fpn-tiny", [*settings, "detector.max_detections=7"])
    return build_detector(preset, num_classes=len(index.classes), interpolator="nearest")


def measured(fabric, data, folder, batch_size):
    folder.mkdir()
    index, seen = load_coco(data, "val"), []
    result = evaluate(
        detector_of(index),
        index,
        Runtime.of_fabric(fabric, workers=0),
        predictions=folder / f"predictions-of-{fabric.global_rank}.json",
        batch_size=batch_size,
        progress=lambda *at: seen.append(at),
    )
    told = {"metrics": result.metrics, "per_class": result.per_class, "seen": seen}
    (folder / "told.json").write_text(json.dumps(told))


def broken_image(fabric, data, folder):
    index = load_coco(data, "val")
    runtime = Runtime.of_fabric(fabric, workers=0)
    try:
        evaluate(detector_of(index), index, runtime, predictions=folder / "predictions.json")
    except UserError as error:
        (folder / f"told-{fabric.global_rank}").write_text(str(error))


def both(fabric, data, broken, folder):
    """In one start of two processes, which takes longer than all they do."""
    for batch_size in (1, 2):
        measured(fabric, data, folder / f"{batch_size}-{fabric.global_rank}", batch_size)
    broken_image(fabric, broken, folder / "broken")


def test_every_image_counts_once_and_a_broken_one_ends_all(data, tmp_path):
    """An odd number of images, which leaves one rank with more of them than the other."""
    broken = make_shapes(tmp_path / "data", train=1, val=IMAGES, size=64)
    image = load_coco(broken, "val").image_path(9)  # one of the last of rank 1
    image.write_bytes(b"no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "predictions.json").write_text("[]")
    on_two_ranks(both, data, broken, tmp_path)
    for batch_size in (1, 2):
        alone = tmp_path / f"alone-{batch_size}"
        measured(Fabric(accelerator="cpu", devices=1), data, alone, batch_size)
        check(alone, [tmp_path / f"{batch_size}-{rank}" for rank in (0, 1)])
    # Both end with the reason, and the results of before stay.
    folder = tmp_path / "broken"
    assert (folder / "predictions.json").read_text() == "[]"
    assert {path.name for path in folder.iterdir()} == {"predictions.json", "told-0", "told-1"}
    assert (folder / "told-0").read_text() == (folder / "told-1").read_text()
    assert image.name in (folder / "told-0").read_text()


def check(alone, shares):
    assert not list(shares[1].glob("predictions*"))
    one, two = (json.loads((folder / "predictions-of-0.json").read_text()) for folder in (alone, shares[0]))
    assert len(one) == 7 * IMAGES
    assert sorted(map(json.dumps, one)) == sorted(map(json.dumps, two))
    whole, *told = (json.loads((folder / "told.json").read_text()) for folder in (alone, *shares))
    for part in told:
        assert part["metrics"] == whole["metrics"]
        assert part["per_class"] == whole["per_class"]
    assert whole["metrics"]["box/AP"] is not None
    assert whole["seen"] == told[0]["seen"] == [[k + 1, IMAGES] for k in range(IMAGES)]
    assert told[1]["seen"] == []


@dataclass
class FailsAt:
    """What goes wrong on one rank."""

    rank: int
    error: Exception


def failing(fabric, folder, fault):
    def action():
        if fabric.global_rank == fault.rank:
            raise fault.error
        return fabric.global_rank

    try:
        all_gather(action, fabric.world_size)
    except Exception as error:
        told = f"{type(error).__name__}: {error}" if getattr(error, "raised_on_all_ranks", False) else "alone"
        (folder / str(fabric.global_rank)).write_text(told)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_failure_of_one_ends_all(tmp_path, rank):
    for error in (UserError("no such image"), ValueError("odd")):
        fault = FailsAt(rank, error)
        Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(failing, tmp_path, fault)
        told = {place: (tmp_path / str(place)).read_text() for place in (0, 1)}
        assert told[rank] == f"{type(error).__name__}: {error}"
        is_mistake = isinstance(error, UserError)
        assert told[1 - rank] == (told[rank] if is_mistake else f"RuntimeError: process {rank} failed: odd")
