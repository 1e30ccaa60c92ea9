"""Maps with their border values around them."""

import torch
from torch import Tensor


def repeat_border(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H + 2, W + 2), one more of the border's values on every side.

    What ``F.pad(maps, (1, 1, 1, 1), mode="replicate")`` gives, whose backward pass fails under ``torch.compile`` when
    the compiler prefers channels last (torch 2.14), and is not deterministic on CUDA.
    """
    maps = torch.cat((maps[..., :1, :], maps, maps[..., -1:, :]), dim=-2)
    return torch.cat((maps[..., :1], maps, maps[..., -1:]), dim=-1)
