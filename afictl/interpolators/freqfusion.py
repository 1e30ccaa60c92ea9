"""FreqFusion: adaptive low-pass kernels enlarge the coarse map, predicted offsets resample it, and adaptive high-pass
kernels sharpen the fine map.

Chen et al., "Frequency-aware feature fusion for dense image prediction", https://arxiv.org/abs/2408.12879.
A neck adds the result to the fine map: it is the enlarged map plus the details of the fine one, up(coarse) +
highpass(fine), and the paper's sum where the neck adds both with weight one.
Legend: N images, C channels, H x W the coarse map, h x w the fine one, M compressed channels, G groups, k and l the
sizes of the low-pass and high-pass kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.interpolators.base import Interpolator, pad_fine, require_divisor, require_fine, zero_biases
from afictl.interpolators.reassembly import normalise_kernels, reassemble, similarities, to_planes
from afictl.interpolators.sampling import moved_centres, sample


class FreqFusion(Interpolator):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W) that needs the fine map and returns its details too.

    Outside the maps there are zeros; the resampled map is replicated there. A fresh one is close to a k x k mean plus
    the difference of the fine map and its l x l mean.

    Args:
        channels: C of both maps.
        low_pass_kernel: k, odd.
        high_pass_kernel: l, odd.
        compressed_channels: M, width of the networks that predict kernels and offsets.
        groups: G; the channels of a group share their offsets.

    Raises:
        UserError: an option that is not a positive (odd) number, or ``groups`` does not divide ``channels``.
    """

    kind = "freqfusion"
    needs_fine = True
    odd_options = ("low_pass_kernel", "high_pass_kernel")

    def __init__(
        self,
        channels: int,
        low_pass_kernel: int = 5,
        high_pass_kernel: int = 3,
        compressed_channels: int = 64,
        groups: int = 4,
    ) -> None:
        super().__init__(
            channels,
            low_pass_kernel=low_pass_kernel,
            high_pass_kernel=high_pass_kernel,
            compressed_channels=compressed_channels,
            groups=groups,
        )
        require_divisor(self, "groups", groups)
        self.compress_coarse = nn.Conv2d(channels, compressed_channels, 1)
        self.compress_fine = nn.Conv2d(channels, compressed_channels, 1)
        self.low_pass = nn.Conv2d(compressed_channels, low_pass_kernel**2, 3, padding=1)
        self.high_pass = nn.Conv2d(compressed_channels, high_pass_kernel**2, 3, padding=1)
        self.coarse_offset = OffsetPredictor(compressed_channels, 2 * groups * 4)
        self.fine_offset = OffsetPredictor(compressed_channels, 2 * groups)
        for compress in (self.compress_coarse, self.compress_fine):
            nn.init.xavier_uniform_(compress.weight)
        for encode in (self.low_pass, self.high_pass):
            nn.init.normal_(encode.weight, std=0.001)
        zero_biases(self)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold and add the details of ``fine``.

        Where an offset is not finite, the map of its image and group is NaN.

        Args:
            fine: (N, C, 2H or 2H - 1, 2W or 2W - 1).

        Raises:
            UserError: no ``fine``, or one of another size.
        """
        fine = require_fine(self.kind, coarse, fine)
        height, width = fine.shape[-2:]
        compressed = self.compress_coarse(coarse)
        fusion = self.initial_fusion(compressed, self.compress_fine(fine))
        low_pass, high_pass = self.kernels(compressed, fusion)
        enlarged = reassemble(coarse, low_pass)[..., :height, :width]
        points = moved_centres(self.offset(compressed, fusion), (height, width), scale=1)
        return pad_fine(sample(enlarged, points).to(fine.dtype) + _details(fine, high_pass), coarse)

    def initial_fusion(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Sum of the compressed maps (N, M, H, W) and (N, M, h, w), each filtered by kernels from their plain sum."""
        height, width = fine.shape[-2:]
        nearest = F.interpolate(coarse, scale_factor=2.0, mode="nearest")[..., :height, :width]
        low_pass, high_pass = self.kernels(coarse, nearest + fine)
        return reassemble(coarse, low_pass)[..., :height, :width] + fine + _details(fine, high_pass)

    def kernels(self, coarse: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor]:
        """Low-pass (N, k * k, 4, H, W) and smoothing (N, l * l, 1, h, w) kernels from ``fusion`` (N, M, h, w)."""
        low_pass = normalise_kernels(to_planes(pad_fine(self.low_pass(fusion), coarse), 2))
        return low_pass, normalise_kernels(self.high_pass(fusion).unsqueeze(2))

    def offset(self, coarse: Tensor, fusion: Tensor) -> Tensor:
        """(N, M, H, W) and (N, M, h, w) -> (N, 2 * G, h, w), direction times magnitude, in fine pixels."""
        height, width = fusion.shape[-2:]
        coarse_part, fine_part = self.coarse_offset(coarse), self.fine_offset(fusion)
        direction, magnitude = (F.pixel_shuffle(part, 2)[..., :height, :width] for part in coarse_part)
        return (direction + fine_part[0]) * (magnitude + fine_part[1]).sigmoid()


class OffsetPredictor(nn.Module):
    """Direction and magnitude of offsets, from a map and the cosine similarity of each pixel with its 8 neighbours.

    Args:
        channels: M of the map.
        outputs: channels of each result.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.direction = nn.Conv2d(channels + 8, outputs, 3, padding=1)
        self.magnitude = nn.Conv2d(channels + 8, outputs, 3, padding=1)
        nn.init.normal_(self.direction.weight, std=0.001)
        nn.init.zeros_(self.magnitude.weight)
        zero_biases(self)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(N, M, h, w) -> twice (N, outputs, h, w), at least float32; the magnitude before its sigmoid."""
        features = torch.cat((values, _neighbour_similarities(values).to(values.dtype)), dim=1)
        dtype = torch.promote_types(values.dtype, torch.float32)
        return self.direction(features).to(dtype), self.magnitude(features).to(dtype)


def _details(fine: Tensor, kernels: Tensor) -> Tensor:
    """High-pass filter: (N, C, h, w) minus the mean of its neighbours with weights ``kernels`` (N, l * l, 1, h, w)."""
    return fine - reassemble(fine, kernels)


def _neighbour_similarities(values: Tensor) -> Tensor:
    """Cosine of each pixel of (N, M, h, w) with its 8 neighbours, row by row: (N, 8, h, w); 0 outside the map."""
    unit = F.normalize(values.to(torch.promote_types(values.dtype, torch.float32)), dim=1)
    cosines = similarities(unit, unit.view_as(unit), 3).squeeze(2)  # torch.compile refuses the same tensor twice
    return torch.cat((cosines[:, :4], cosines[:, 5:]), dim=1)
