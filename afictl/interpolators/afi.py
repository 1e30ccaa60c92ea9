"""AF interpolator: bilinear enlargement plus a learned branch of residual dense blocks.

The generator of Lee and Bae, "AFI-GAN: Improving feature interpolation of feature pyramid networks via
adversarial training for object detection", Pattern Recognition 2023, https://doi.org/10.1016/j.patcog.2023.109365.
Its dense blocks without batch norm come from ESRGAN, https://arxiv.org/abs/1809.00219.

Legend: N images, C channels, H x W the coarse map, G growth.
"""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from afictl.errors import UserError
from afictl.interpolators.base import Interpolator, zero_biases
from afictl.interpolators.hub import CARD, WEIGHTS, find_pretrained, read_json_config
from afictl.interpolators.winograd import Conv3x3, TransposedConv6x6, prefers_channels_last
from afictl.tensor_files import read_tensors

_PAPER = "https://doi.org/10.1016/j.patcog.2023.109365"
NEGATIVE_SLOPE = 0.2
_GROWING_CONVS = 4
_PUBLISHED_SCALE = 0.1
_TAIL_SCALE = 0.01
_INITS = ("published", "kaiming")


def _activate(x: Tensor) -> Tensor:
    # In place: the convolution before it does not need its output for the backward pass.
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


class DenseBlock(nn.Module):
    """Four 3x3 convolutions with G outputs, each on the input and all outputs before it, merged to C; residual."""

    def __init__(self, channels: int, growth: int, residual_scale: float) -> None:
        super().__init__()
        widths = [channels + i * growth for i in range(_GROWING_CONVS + 1)]
        self.grow = nn.ModuleList(nn.Conv2d(width, growth, 3, padding=1, bias=False) for width in widths[:-1])
        self.merge = Conv3x3(widths[-1], channels, bias=False)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        maps = x
        for conv in self.grow:
            maps = torch.cat((maps, _activate(conv(maps))), dim=1)
        return torch.add(x, self.merge(maps), alpha=self.residual_scale)


class DenseInterpolator(Interpolator):
    """Bilinear enlargement plus a learned branch with a residual group of dense blocks.

    A kind sets ``residual_scale`` and the parts of the branch.
    """

    real_options = ("residual_scale",)

    residual_scale: float
    """Weight of the residual of the group."""
    head: nn.Module
    group: nn.Module
    """The dense blocks."""
    fuse: nn.Conv2d
    enlarge: nn.Module
    """Doubles height and width."""
    tail: nn.Module

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        if not prefers_channels_last(coarse, self.fuse.out_channels):
            return self._enlarge(coarse)
        enlarged = self._enlarge(coarse.contiguous(memory_format=torch.channels_last))
        return enlarged.contiguous() if coarse.is_contiguous() else enlarged

    def _enlarge(self, coarse: Tensor) -> Tensor:
        x = _activate(self.head(coarse))
        x = torch.add(x, self.group(x), alpha=self.residual_scale)
        x = _activate(self.fuse(x))
        x = _activate(self.enlarge(x))
        return F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False) + self.tail(x)


class AFInterpolator(
    DenseInterpolator,
    PyTorchModelHubMixin,
    library_name="afictl",
    tags=["feature-upsampling", "object-detection"],
    paper_url=_PAPER,
    model_card_template=CARD,
):
    """Learned twofold enlargement (N, C, H, W) -> (N, C, 2H, 2W), any H and W.

    ``save`` and ``load`` work on one file; ``save_pretrained(folder)``, ``push_to_hub("owner/name")`` (both
    huggingface_hub's, see ``PyTorchModelHubMixin``) and ``from_pretrained`` on a folder or Hub repository.

    Args:
        channels: C of the maps.
        blocks: dense blocks in the residual group.
        growth: channels that each convolution of a dense block adds.
        residual_scale: weight of the residual of a dense block, and of the residual group.
        init: initial weights, which a file does not record. ``published``: a tenth of Kaiming's in every convolution,
            with which the branch is about 1e-4 of the bilinear part. ``kaiming``: see ``init_branch``.

    Raises:
        UserError: another ``init``, or another argument that is not a positive number.
    """

    kind = "afi"

    def __init__(
        self,
        channels: int = 256,
        blocks: int = 3,
        growth: int = 32,
        residual_scale: float = 0.2,
        init: str = "published",
    ) -> None:
        super().__init__(channels, blocks=blocks, growth=growth, residual_scale=residual_scale)
        self.residual_scale = residual_scale
        self.head = Conv3x3(channels, channels)
        self.group = nn.Sequential(*(DenseBlock(channels, growth, residual_scale) for _ in range(blocks)))
        self.fuse = Conv3x3(channels, channels)
        self.enlarge = TransposedConv6x6(channels)
        self.tail = Conv3x3(channels, channels)
        if init not in _INITS:
            raise UserError(f"interpolator '{self.kind}': init must be {' or '.join(_INITS)}, not {init!r:.60}")
        if init == "published":
            self.apply(_init_published)
        else:
            init_branch(self)
        self._hub_mixin_config = self.config  # of save_pretrained: without ``init``, as in every other file

    @classmethod
    def from_pretrained(  # type: ignore[override]  # takes no arguments of the model: they are in config.json
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> AFInterpolator:
        """Read a folder of ``save_pretrained`` or a repository of ``push_to_hub``: JSON and safetensors, no pickle.

        Args:
            pretrained_model_name_or_path: folder, or ``owner/name`` on the Hugging Face Hub.
            force_download: download files again that are in the cache.
            token: access token of the Hub; None takes the one of ``hf auth login``.
            cache_dir: folder of downloads.
            local_files_only: read earlier downloads only; so does the environment's ``HF_HUB_OFFLINE=1``.
            revision: branch, tag or commit.

        Returns:
            The interpolator on the CPU, in eval mode.

        Raises:
            UserError: a file is missing or damaged, configuration and weights do not fit, no such repository, or
                the Hub cannot be reached (after its retries, about 20 seconds).
        """
        config, weights = find_pretrained(
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        return cls.from_tensors(cls.kind, read_json_config(config), read_tensors(weights)[0], weights.parent).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory / WEIGHTS)  # so that ``load`` reads that file too


def init_branch(interpolator: DenseInterpolator) -> None:
    """Kaiming's initial weights, of the last convolution a hundredth: a fresh interpolator is nearly bilinear.

    Small weights in every convolution, as published, leave the first layers a smaller gradient.
    """
    interpolator.apply(_init_kaiming)
    with torch.no_grad():
        for parameter in interpolator.tail.parameters():
            parameter.mul_(_TAIL_SCALE)


def _init_kaiming(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        zero_biases(module)


def _init_published(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(module.weight)
        with torch.no_grad():
            module.weight.mul_(_PUBLISHED_SCALE)
        zero_biases(module)
