"""The finer map that guides FADE and SAPA: is it there, and what stands where it ends before the enlarged map."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from afictl.errors import UserError


def require_fine(kind: str, coarse: Tensor, fine: Tensor | None) -> Tensor:
    """``fine`` (N, C, 2H or 2H - 1, 2W or 2W - 1), once it is known to fit ``coarse`` (N, C, H, W).

    Raises:
        UserError: there is none, or it has another size.
    """
    if fine is None:
        raise UserError(f"interpolator '{kind}' looks at the finer map too: call interpolator(coarse, fine)")
    (h, w), (height, width) = coarse.shape[-2:], fine.shape[-2:]
    if 2 * h - height not in (0, 1) or 2 * w - width not in (0, 1):
        raise UserError(f"interpolator '{kind}' enlarges twofold, but the maps are {h}x{w} and {height}x{width}")
    return fine


def pad_fine(values: Tensor, coarse: Tensor) -> Tensor:
    """Zeros below and right of ``values`` (N, c, 2H or 2H - 1, ...), up to twice the size of ``coarse`` (..., H, W).

    A neck cuts the enlarged map to the size of the fine one. Values that each belong to one fine pixel are padded
    only when no other pixel looks at them any more, so that what is kept does not depend on the padding.
    """
    (h, w), (height, width) = coarse.shape[-2:], values.shape[-2:]
    if (height, width) == (2 * h, 2 * w):
        return values  # F.pad would copy
    return F.pad(values, (0, 2 * w - width, 0, 2 * h - height))
