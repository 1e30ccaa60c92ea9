"""Samples of anchors and regions."""

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from afictl.detectors.sampling import ImageSampler

LABELS = [
    torch.tensor([1.0] * 40 + [0.0] * 60 + [-1.0] * 10),  # more of both than the sample takes
    torch.tensor([2.0] * 3 + [0.0] * 60),  # background in place of the missing objects
    torch.tensor([1.0] * 40 + [0.0] * 2),
    torch.tensor([-1.0, 0.0]),
]


def sample(labels: list[Tensor], seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Indices of the sampled objects and background of each image."""
    torch.manual_seed(seed)
    masks = zip(*ImageSampler(16, 0.25)(labels), strict=True)
    return [(objects.nonzero().flatten().tolist(), rest.nonzero().flatten().tolist()) for objects, rest in masks]


def test_samples_have_the_sizes_of_torchvision() -> None:
    expected = BalancedPositiveNegativeSampler(16, 0.25)(LABELS)
    actual = ImageSampler(16, 0.25)(LABELS)
    for masks, expected_masks in zip(actual, expected, strict=True):
        assert [mask.sum() for mask in masks] == [mask.sum() for mask in expected_masks]
        assert {mask.dtype for mask in masks} == {torch.uint8}
    for (objects, background), labels in zip(sample(LABELS), LABELS, strict=True):
        assert (labels[objects] >= 1).all()
        assert (labels[background] == 0).all()


def test_the_sample_of_an_image_is_independent_of_the_other_images() -> None:
    assert sample(LABELS)[1:] == sample([LABELS[3], *LABELS[1:]])[1:]


def test_samples_differ_between_images_and_seeds() -> None:
    first, second = sample([LABELS[0], LABELS[0]])
    assert first != second
    assert sample(LABELS) == sample(LABELS) != sample(LABELS, seed=1)
