"""LDA-AQU: every enlarged pixel is an attention-weighted mean of the coarse map at points that its query moves.

Du et al., "LDA-AQU: Adaptive query-guided upsampling via local deformable attention", https://arxiv.org/abs/2411.19585.
Legend: N images, C channels, H x W the coarse map, D channels of queries and keys, G groups, k x k points of a fine
pixel, K = k * k.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from afictl.interpolators.base import Interpolator, require_divisor, zero_biases
from afictl.interpolators.sampling import sample


class LDAAQU(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W.

    The corners of both maps are aligned, as published. Outside the map there are zeros. A fresh one attends to points
    near the k x k fine pixels around its own, with random weights.

    Memory in units of the output: a peak of 2.7 without gradients; in training 11, and 18 if the backward pass did not
    compute the sampled maps again.

    Args:
        channels: C of the maps.
        reduction: C / D.
        groups: G; the channels of a group share their points.
        up_kernel: k, odd.
        offset_kernel: size of the convolution that predicts the offsets, odd.
        offset_range: largest offset, in fine pixels.

    Raises:
        UserError: an option that is not a positive (odd) number, or ``reduction * groups`` does not divide
            ``channels``.
    """

    kind = "lda-aqu"
    odd_options = ("up_kernel", "offset_kernel")
    real_options = ("offset_range",)

    def __init__(
        self,
        channels: int,
        reduction: int = 4,
        groups: int = 2,
        up_kernel: int = 3,
        offset_kernel: int = 3,
        offset_range: float = 11,
    ) -> None:
        super().__init__(
            channels,
            reduction=reduction,
            groups=groups,
            up_kernel=up_kernel,
            offset_kernel=offset_kernel,
            offset_range=offset_range,
        )
        require_divisor(self, "reduction * groups", reduction * groups)
        width = channels // reduction
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.key = nn.Conv2d(channels, width, 1, bias=False)
        self.position_bias = nn.Parameter(torch.empty(up_kernel**2, width))
        group_width = width // groups
        self.offset_features = nn.Conv2d(group_width, group_width, 3, padding=1, groups=group_width, bias=False)
        self.offset_norm = nn.LayerNorm(group_width)
        self.offset = nn.Conv2d(group_width, 2 * up_kernel**2, offset_kernel, padding=offset_kernel // 2)
        for conv in (self.query, self.key, self.offset_features):
            nn.init.xavier_uniform_(conv.weight)
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        # Zeros, as published, would give the layers before this one no gradient at the first step.
        nn.init.normal_(self.offset.weight, std=0.001)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused.

        Where a point is not finite, the map of its image and group is NaN.
        """
        n, c, h, w = coarse.shape
        normed = _norm_channels(coarse, self.norm)
        query = F.interpolate(self.query(normed), scale_factor=2.0, mode="bilinear", align_corners=True)
        points = self.points(query)
        attention = self.attention(query, self.key(normed), points)
        enlarged = attention.new_zeros(n, c, 2 * h, 2 * w)
        for i in range(points.shape[1]):  # all at once would take K times the memory
            weight = attention[:, i : i + 1]
            if torch.is_grad_enabled():
                enlarged = enlarged + _recompute(_weighted_sample, weight, coarse, points[:, i])
            else:
                enlarged.addcmul_(weight, _sample(coarse, points[:, i]))
        return enlarged.to(coarse.dtype)

    def points(self, query: Tensor) -> Tensor:
        """(N, D, 2H, 2W) -> (N * G, K, 2H, 2W, 2), at least float32: x and y from -1 to 1 between the corner pixels."""
        (h, w), groups = query.shape[-2:], int(self.options["groups"])
        features = self.offset_features(query.reshape(len(query) * groups, -1, h, w))
        offset = self.offset(F.gelu(_norm_channels(features, self.offset_norm)))
        offset = self.options["offset_range"] * offset.to(torch.promote_types(offset.dtype, torch.float32)).tanh()
        y, x = offset.unflatten(1, (-1, 2)).unbind(2)
        size = int(self.options["up_kernel"])
        steps = torch.arange(size, device=offset.device, dtype=offset.dtype) - size // 2
        rows, columns = (torch.arange(side, device=offset.device, dtype=offset.dtype) for side in (h, w))
        y = y + (rows[:, None] + steps.repeat_interleave(size)[:, None, None])
        x = x + (columns + steps.repeat(size)[:, None, None])
        return torch.stack((2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1), dim=-1)

    def attention(self, query: Tensor, key: Tensor, points: Tensor) -> Tensor:
        """(N, D, 2H, 2W), (N, D, H, W) and the points -> weights (N, K, 2H, 2W) of sum one, at least float32."""
        query = query.to(points.dtype) * query.shape[1] ** -0.5
        biases = self.position_bias.to(points.dtype)[..., None, None]
        logits = [_recompute(_logit, query, key, points[:, i], bias) for i, bias in enumerate(biases)]
        return torch.stack(logits, dim=1).softmax(dim=1)


def _recompute(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, computed again in the backward pass: K sampled maps would be most of the memory."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def _sample(maps: Tensor, points: Tensor) -> Tensor:
    return sample(maps, points, padding="zeros", align_corners=True)


def _weighted_sample(weight: Tensor, maps: Tensor, points: Tensor) -> Tensor:
    return weight * _sample(maps, points)


def _logit(query: Tensor, key: Tensor, points: Tensor, bias: Tensor) -> Tensor:
    """(N, D, 2H, 2W), (N, D, H, W), one point of each fine pixel and (D, 1, 1) -> (N, 2H, 2W)."""
    return (query * (_sample(key, points) + bias)).sum(1)


def _norm_channels(values: Tensor, norm: nn.Module) -> Tensor:
    """Layer norm over the channels of (N, C, H, W)."""
    return norm(values.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
