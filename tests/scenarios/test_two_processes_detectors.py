"""The losses of two processes with one image each are, on average, those of one process with both."""

from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from afictl.detectors.fcos import build_fcos_head
from afictl.detectors.retinanet import build_retinanet_head
from afictl.presets.architecture import FCOSConfig, RetinaNetConfig

STRIDES = {"p3": 8, "p4": 16}
# Very different numbers of positions on objects.
TARGETS = [
    {"boxes": torch.tensor([[1.0, 2, 14, 12], [6, 8, 32, 30], [20, 1, 30, 9]]), "labels": torch.tensor([1, 2, 2])},
    {"boxes": torch.tensor([[2.0, 2, 8, 8]]), "labels": torch.tensor([2])},
]


@torch.no_grad()
def losses(rows: slice) -> dict[str, Tensor]:
    """FCOS's for some images of the batch, and RetinaNet's running count of positives."""
    torch.manual_seed(2)
    features = {level: torch.randn(2, 4, *size)[rows] for level, size in (("p3", (4, 4)), ("p4", (2, 2)))}
    points = build_fcos_head(FCOSConfig(size_ranges=(16,)), 4, STRIDES, 2)
    anchors = build_retinanet_head(RetinaNetConfig(anchor_sizes=(12, 24)), 4, STRIDES, 2)
    anchors.compute_losses(anchors.outputs(features), TARGETS[rows])
    return {**points.compute_losses(points.outputs(features), TARGETS[rows]), "normalizer": anchors.normalizer}


def compute_rank_losses(fabric: Fabric, path: Path) -> None:
    torch.set_num_threads(1)
    of_rank = losses(slice(fabric.global_rank, fabric.global_rank + 1))
    averaged = {name: fabric.all_reduce(value.clone(), reduce_op="mean") for name, value in of_rank.items()}
    assert torch.equal(of_rank["normalizer"], averaged["normalizer"])
    torch.save(averaged, path / f"{fabric.global_rank}.pt")


def test_two_processes_divide_by_the_counts_of_the_whole_batch(tmp_path: Path) -> None:
    # Forked, which is ten times faster than spawned: nothing here computes gradients or uses a GPU.
    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(compute_rank_losses, tmp_path)
    averaged = torch.load(tmp_path / "0.pt", weights_only=True)
    whole = losses(slice(0, 2))
    # RetinaNet's count is one for each device.
    torch.testing.assert_close(averaged.pop("normalizer") - 90, (whole.pop("normalizer") - 90) / 2)
    for name, value in whole.items():
        torch.testing.assert_close(averaged[name], value, rtol=1e-5, atol=1e-7, msg=name)
