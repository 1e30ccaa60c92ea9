"""Two processes with half of a batch each train as one process with the whole batch."""

import torch
from lightning_fabric import Fabric

from afictl import AFInterpolator, PatchDiscriminator
from afictl.presets import AdversarialRecipe
from afictl.training.adversarial import PerLevel, discriminator_step, feature_losses, make_pairs
from afictl.training.optimization import TrainableModule
from afictl.training.sync_batch_norm import synchronize_batch_norms
from tests.helpers.ranks import on_two_ranks

RECIPE = AdversarialRecipe(steps=2, batch_size=4, lr=0.05, warmup_steps=0, adversarial_weight=0.5)
EXTENTS = [(8, 8), (5, 8), (8, 3), (7, 7)]  # the last three images are padded, by different numbers of positions


def train(fabric, rows):
    """Two adversarial steps on ``rows`` of a batch; returns all weights."""
    torch.manual_seed(0)
    generator, discriminator = AFInterpolator(8, blocks=1, growth=4), PatchDiscriminator(8)
    coarse, real = torch.randn(4, 8, 4, 4)[rows], torch.randn(4, 8, 8, 8)[rows]
    extents = {"p2": EXTENTS[rows]}
    synchronize_batch_norms(fabric, discriminator)
    upsampler = TrainableModule(fabric, PerLevel(generator), RECIPE)
    trainable_discriminator = TrainableModule(fabric, PerLevel(discriminator), RECIPE)
    for _ in range(2):
        pairs = make_pairs(upsampler.module({"p2": coarse}), {"p2": real}, extents, extents)
        discriminator_step(trainable_discriminator, pairs)
        upsampler.backward(feature_losses(trainable_discriminator.module, pairs, RECIPE).values())
        upsampler.optimizer_step()
    return {**generator.state_dict(), **{f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}}


def train_rank(fabric, path):
    rows = slice(2 * fabric.global_rank, 2 * fabric.global_rank + 2)
    torch.save(train(fabric, rows), path / f"{fabric.global_rank}.pt")


def test_the_adversarial_stages_equal_one_process(tmp_path):
    on_two_ranks(train_rank, tmp_path)
    weights = train(Fabric(accelerator="cpu", devices=1), slice(0, 4))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0].keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(ranks[0][name], ranks[1][name], rtol=0, atol=0, msg=name)
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-6, msg=name)
