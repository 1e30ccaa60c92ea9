"""Evaluation by two processes, each with half of the images, equals that by one."""

import json
from dataclasses import dataclass

import pytest
import torch
from lightning_fabric import Fabric

from afictl.data import load_dataset, make_shapes
from afictl.detectors import build_detector
from afictl.distributed import Runtime, all_gather
from afictl.errors import UserError
from afictl.evaluation import evaluate
from afictl.presets import load_preset
from tests.helpers.ranks import on_ranks

IMAGES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=IMAGES, size=64)


def detector_of(index):
    torch.manual_seed(0)
    settings = ["input.min_sizes=[64]", "input.test_size=64", "detector.score_threshold=0.0"]
    preset = load_preset("mask-rcnn-r18-fpn-tiny", [*settings, "detector.max_detections=7"])
    return build_detector(preset, num_classes=len(index.classes), interpolator="nearest")


def evaluate_and_write(fabric, data, folder, batch_size):
    folder.mkdir()
    dataset, calls = load_dataset(data, "val"), []
    result = evaluate(
        detector_of(dataset),
        dataset,
        Runtime.of_fabric(fabric, workers=0),
        predictions=folder / f"predictions-of-{fabric.global_rank}.json",
        batch_size=batch_size,
        progress=lambda *call: calls.append(call),
    )
    content = {"metrics": result.metrics, "per_class": result.per_class, "progress": calls}
    (folder / "evaluation.json").write_text(json.dumps(content))


def evaluate_broken_image(fabric, data, folder):
    dataset = load_dataset(data, "val")
    runtime = Runtime.of_fabric(fabric, workers=0)
    try:
        evaluate(detector_of(dataset), dataset, runtime, predictions=folder / "predictions.json")
    except UserError as error:
        (folder / f"error-{fabric.global_rank}").write_text(str(error))


def evaluate_all(fabric, data, broken, folder):
    """All cases in one start of two processes, which takes longer than the cases."""
    for batch_size in (1, 2):
        evaluate_and_write(fabric, data, folder / f"{batch_size}-{fabric.global_rank}", batch_size)
    evaluate_broken_image(fabric, broken, folder / "broken")


@pytest.mark.usefixtures("one_thread")
def test_two_ranks_equal_one_and_both_end_at_a_broken_image(data, tmp_path):
    """With an odd number of images, so that one rank has more than the other."""
    broken = make_shapes(tmp_path / "data", train=1, val=IMAGES, size=64)
    image = load_dataset(broken, "val").image_path(9)  # one of the last of rank 1
    image.write_bytes(b"no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "predictions.json").write_text("[]")
    on_ranks(2, evaluate_all, data, broken, tmp_path)
    for batch_size in (1, 2):
        single = tmp_path / f"single-{batch_size}"
        evaluate_and_write(Fabric(accelerator="cpu", devices=1), data, single, batch_size)
        check(single, [tmp_path / f"{batch_size}-{rank}" for rank in (0, 1)])
    # Both ranks raise the same error, and the earlier results stay.
    folder = tmp_path / "broken"
    assert (folder / "predictions.json").read_text() == "[]"
    assert {path.name for path in folder.iterdir()} == {"predictions.json", "error-0", "error-1"}
    assert (folder / "error-0").read_text() == (folder / "error-1").read_text()
    assert image.name in (folder / "error-0").read_text()


def check(single, ranks):
    assert not list(ranks[1].glob("predictions*"))
    one, two = (json.loads((folder / "predictions-of-0.json").read_text()) for folder in (single, ranks[0]))
    assert len(one) == 7 * IMAGES
    assert sorted(map(json.dumps, one)) == sorted(map(json.dumps, two))
    expected, *results = (json.loads((folder / "evaluation.json").read_text()) for folder in (single, *ranks))
    for result in results:
        assert result["metrics"] == expected["metrics"]
        assert result["per_class"] == expected["per_class"]
    assert expected["metrics"]["box/AP"] is not None
    assert expected["progress"] == [[k + 1, IMAGES] for k in range(IMAGES)]
    assert all(result["progress"] == expected["progress"] for result in results)


@dataclass
class RankFailure:
    """An error on one rank."""

    rank: int
    error: Exception


def gather(fabric, folder, failure):
    def action():
        if fabric.global_rank == failure.rank:
            raise failure.error
        return fabric.global_rank

    try:
        all_gather(action, fabric.world_size)
    except Exception as error:
        message = f"{type(error).__name__}: {error}" if getattr(error, "raised_on_all_ranks", False) else "one rank"
        (folder / str(fabric.global_rank)).write_text(message)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_of_one_rank_ends_both(tmp_path, rank):
    for error in (UserError("no such image"), ValueError("odd")):
        failure = RankFailure(rank, error)
        Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(gather, tmp_path, failure)
        messages = [(tmp_path / str(k)).read_text() for k in (0, 1)]
        assert messages[rank] == f"{type(error).__name__}: {error}"
        is_user_error = isinstance(error, UserError)
        expected = messages[rank] if is_user_error else f"RuntimeError: process {rank} failed: odd"
        assert messages[1 - rank] == expected
