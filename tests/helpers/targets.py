"""Random images and targets of detectors."""

import torch
from torch import Tensor


def random_image(height: int, width: int) -> Tensor:
    """Float (3, height, width), the same at every call."""
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def one_object(height: int, width: int, label: int = 3) -> dict[str, Tensor]:
    """The target of an image with one object, 40 px wide and 30 px high."""
    masks = torch.zeros(1, height, width, dtype=torch.uint8)
    masks[0, 10:40, 10:50] = 1
    return {"boxes": torch.tensor([[10.0, 10, 50, 40]]), "labels": torch.tensor([label]), "masks": masks}


def no_object(height: int, width: int) -> dict[str, Tensor]:
    """The target of an image without objects."""
    return {name: value[:0] for name, value in one_object(height, width).items()}
