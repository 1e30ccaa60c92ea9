"""Batches and losses of labelled and pseudo-labelled images together."""

from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric

from afictl import load_preset
from afictl.data import load_dataset
from afictl.training import InitialWeights, PseudoLabels, finetune
from afictl.training.mixed_data import MixedLosses
from afictl.training.optimization import TrainableModule
from afictl.training.seeds import Seeds
from afictl.training.sync_batch_norm import synchronize_batch_norms
from tests.helpers.pseudo_files import write_pseudo_file
from tests.helpers.ranks import on_ranks
from tests.helpers.tiny_runs import SMALL, with_steps


def load_batches(number, pseudo, data, fabric=None, start=0, seed=3, settings=()):
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    preset = load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, "train.batch_size=4", *settings))
    mixed = pseudo.load(load_dataset(data, "train"), preset, masks=True)
    return list(islice(mixed.batches(fabric, preset, Seeds.of(seed))(start), number))


def test_a_batch_is_a_function_of_seed_and_step(pseudo_file, shapes_dir):
    pseudo = PseudoLabels(pseudo_file, ratio=3)
    batches = load_batches(6, pseudo, shapes_dir)
    later = load_batches(2, pseudo, shapes_dir, start=4, settings=["loader.workers=3"])
    for batch, other in zip(batches[4:], later, strict=True):
        assert batch.image_ids == other.image_ids
        assert all(a.equal(b) for a, b in zip(batch.images, other.images, strict=True))
        assert all(a["boxes"].equal(b["boxes"]) for a, b in zip(batch.targets, other.targets, strict=True))
    assert load_batches(1, pseudo, shapes_dir, seed=4)[0].image_ids != batches[0].image_ids
    ids = [image_id for batch in batches for image_id in batch.image_ids[1:]]
    assert [ids.count(image_id) for image_id in range(1, 7)] == [3] * 6  # 18 of 6 images: each three times


def test_the_ranks_share_both_groups(pseudo_file, shapes_dir):
    pseudo = PseudoLabels(pseudo_file)
    batches = load_batches(3, pseudo, shapes_dir)
    ranks = [SimpleNamespace(world_size=2, device="cpu", global_rank=rank) for rank in (0, 1)]
    rank_batches = [load_batches(3, pseudo, shapes_dir, rank) for rank in ranks]
    for batch, first, second in zip(batches, *rank_batches, strict=True):
        labelled, pseudo_labelled = zip(first.image_ids, second.image_ids, strict=True)
        assert batch.image_ids == [*labelled, *pseudo_labelled]


class MeanLoss(torch.nn.Module):
    """A detector whose loss is the mean of its images."""

    def forward(self, images, targets):
        assert len(images) == len(targets)
        return {"loss_box": torch.stack(images).mean(), "loss_class": torch.tensor(2.0)}


@pytest.mark.parametrize(("weight", "box"), [(0, (3, 0)), (1, (1.5, 4)), (3, (0.75, 6))])
def test_the_losses_of_the_groups_are_averaged_by_their_weights(weight, box):
    images = [torch.tensor(value) for value in (2.0, 4.0, 8.0)]
    losses = MixedLosses(MeanLoss(), num_labelled=2, weight=weight)(images, [{}] * 3)
    assert [float(losses["loss_box"]), float(losses["loss_pseudo_box"])] == pytest.approx(box)
    assert float(losses["loss_class"] + losses["loss_pseudo_class"]) == pytest.approx(2)


def test_without_weight_the_detector_is_that_of_the_labelled_images_alone(fabric, shapes_dir, pseudo_file, tmp_path):
    preset = load_preset("faster-rcnn-r18-fpn-tiny", (*SMALL, "detector.kind=faster-rcnn"))
    finetune(fabric, preset, shapes_dir, tmp_path / "plain", InitialWeights("nearest"))
    pseudo = PseudoLabels(pseudo_file, weight=0, ratio=2)
    larger = with_steps(preset, batch_size=6)
    finetune(fabric, larger, shapes_dir, tmp_path / "mixed", InitialWeights("nearest"), pseudo=pseudo)
    plain, mixed = (
        torch.load(tmp_path / run / "state.pt", weights_only=True)["detector"] for run in ("plain", "mixed")
    )
    statistics = [name for name in plain if "running_" in name or "num_batches" in name]
    assert statistics
    assert not torch.equal(plain[statistics[0]], mixed[f"detector.{statistics[0]}"])  # of both kinds of images
    for name in plain.keys() - set(statistics):
        torch.testing.assert_close(mixed[f"detector.{name}"], plain[name], rtol=0, atol=0, msg=name)


class TinyDetector(torch.nn.Module):
    """A detector that predicts the mean label of each image."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.norm = torch.nn.BatchNorm2d(4)
        self.out = torch.nn.Linear(4, 1)

    def forward(self, images, targets):
        predicted = self.out(self.norm(self.conv(torch.stack(images))).relu().mean(dim=(2, 3)))[:, 0]
        expected = torch.stack([target["labels"].float().mean() for target in targets])
        return {"loss_class": (predicted - expected).square().mean()}


def train(fabric, folder, data):
    """Two steps on batches of two and two images; returns all weights."""
    preset = load_preset("faster-rcnn-r18-fpn-tiny", (*SMALL, "train.batch_size=4"))
    mixed = PseudoLabels(folder / "pseudo.json", weight=0.5).load(load_dataset(data, "train"), preset, masks=False)
    torch.manual_seed(0)
    detector = TinyDetector()
    synchronize_batch_norms(fabric, detector)
    recipe = preset.train.model_copy(update={"optimizer": "sgd", "lr": 0.1})
    trainable = TrainableModule(fabric, mixed.training_module(fabric, detector), recipe, recipe.clip_norm)
    for batch in islice(mixed.batches(fabric, preset, Seeds.of(0))(0), 2):
        trainable.backward(trainable.module(batch.images, batch.targets))
        trainable.optimizer_step()
    return detector.state_dict()


def train_rank(fabric, folder, data):
    torch.save(train(fabric, folder, data), folder / f"{fabric.global_rank}.pt")


def test_two_processes_train_as_one(shapes_dir, tmp_path):
    write_pseudo_file(tmp_path / "pseudo.json", shapes_dir)
    on_ranks(2, train_rank, tmp_path, shapes_dir)
    weights = train(Fabric(accelerator="cpu", devices=1), tmp_path, shapes_dir)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(ranks[0][name], ranks[1][name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-6, msg=name)
