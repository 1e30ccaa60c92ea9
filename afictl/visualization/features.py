"""What interpolators make of the guide's features of a half-size image, beside its features of the image itself.

Views and pairs are those of stage 1 (AFI-GAN, section 3), and so are the distances: L1 and cosine of the channel
vectors, averaged over the positions inside the image. Legend: C channels, h x w a level's map inside the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from afictl.data.transforms import half_size, resize_for, to_float, view
from afictl.detectors import Detector
from afictl.errors import UserError, did_you_mean
from afictl.training.adversarial import Pair
from afictl.training.feature_distance import enlarged_pairs, position_distance
from afictl.visualization.colormaps import component_colors, heat_colors, scale_bar
from afictl.visualization.components import Components
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.pictures import Picture

_PANEL = (280, 480)  # pixels of a panel's long side: with many and with few panels in a row
_ROW = 2600  # pixels of a row, if its panels may shrink
_HIGHEST = 0.99  # quantile of the errors at which their colours end
_FINE = ("fade", "sapa")
_TEXT = (
    "Each interpolator enlarges the guide's feature of the half-size image; the goal is the guide's feature of the "
    "image itself. Colours are the first three principal components of all enlarged maps and the goal of a level "
    "together (lightness, blue to yellow, green to red): the same colour is the same feature within a level. "
    "Below: mean absolute difference to the goal at each position, on one scale within a level."
)


@dataclass(frozen=True)
class LevelView:
    """One level of one image, on the CPU."""

    level: str
    stride: int
    """Pixels of the image between positions of ``goal``."""
    coarse: Tensor
    """(C, ceil(h/2), ceil(w/2)): the guide's feature of the half-size image."""
    goal: Tensor
    """(C, h, w): the guide's feature of the image."""
    enlarged: Mapping[str, Tensor]
    """(C, h, w) by interpolator."""
    error: Mapping[str, Tensor]
    """(h, w): mean absolute difference."""
    distance: Mapping[str, Mapping[str, float]]
    """``l1`` and ``cosine`` by interpolator, as stage 1 measures them."""


@torch.no_grad()
def level_views(
    guide: Detector, interpolators: Mapping[str, nn.Module], image: Tensor, levels: Sequence[str]
) -> Iterator[LevelView]:
    """Enlarge the guide's features of ``image``, uint8 (3, H, W) RGB, level by level."""
    device = next(guide.parameters()).device
    full = resize_for(guide.input, image).to(device)
    half = to_float(view(image, half_size((full.shape[1], full.shape[2])), flip=False).to(device))
    real, coarse = guide.pyramid([full]), guide.pyramid([half])
    for level in levels:
        pairs = {
            name: enlarged_pairs(guide, {level: module(coarse[level])}, real, [full], [half])[level]
            for name, module in interpolators.items()
        }
        yield _level_view(level, guide.neck.strides[level], coarse[level], pairs)


def _level_view(level: str, stride: int, coarse: Tensor, pairs: Mapping[str, Pair]) -> LevelView:
    errors, distance = {}, {}
    pair = next(iter(pairs.values()))
    h, w = int(pair.mask[0, 0, :, 0].sum()), int(pair.mask[0, 0, 0].sum())  # the mask is a rectangle at the top left
    for name, each in pairs.items():
        l1, cosine = (value[0, :h, :w].cpu() for value in position_distance(each))
        errors[name], distance[name] = l1, {"l1": float(l1.mean()), "cosine": float(cosine.mean())}
    return LevelView(
        level,
        stride,
        coarse[0, :, : (h + 1) // 2, : (w + 1) // 2].cpu(),
        pair.real[0, :, :h, :w].cpu(),
        {name: each.fake[0, :, :h, :w].cpu() for name, each in pairs.items()},
        errors,
        distance,
    )


def feature_figures(
    guide: Detector, interpolators: Mapping[str, nn.Module], pictures: Sequence[Picture], levels: Sequence[str] = ()
) -> Iterator[Figure]:
    """A figure of each image: two rows of panels a level, features above and their errors below.

    Args:
        guide: in eval mode.
        interpolators: by the name that stands above what they make; put into eval mode.
        pictures: the images.
        levels: of the guide's pyramid; none takes all.

    Raises:
        UserError: an unknown level, or an interpolator of another width or one that needs a finer map.
    """
    chosen = chosen_levels(guide, levels)
    for name, module in interpolators.items():
        _require_fit(name, module, guide)
        module.to(next(guide.parameters()).device).eval()
    for picture in pictures:
        image = picture.read()
        panels = _panels(guide, interpolators, image, chosen)
        title = f"{picture.name}: the guide's features, enlarged"
        yield Figure(f"{picture.name}-features", panels, title, _TEXT, columns=2 + len(interpolators))


def chosen_levels(guide: Detector, levels: Sequence[str]) -> list[str]:
    """``levels`` from fine to coarse, or all of the guide's.

    Raises:
        UserError: the guide has no such level.
    """
    known = list(guide.neck.strides)
    for level in levels:
        if level not in known:
            raise UserError(f"--levels {level}: the guide has no such level{did_you_mean(level, known)}")
    return [level for level in known if level in levels or not levels]


def _require_fit(name: str, module: nn.Module, guide: Detector) -> None:
    if module.channels != guide.neck.channels:
        raise UserError(f"{name} is made for {module.channels} channels, the guide has {guide.neck.channels}")
    if module.kind in _FINE:
        raise UserError(
            f"{name}: '{module.kind}' also looks at the finer map of a neck, and here there is none: only the coarse"
            " feature of the half-size image; leave it out"
        )


def _panels(
    guide: Detector, interpolators: Mapping[str, nn.Module], image: Tensor, levels: Sequence[str]
) -> list[Panel]:
    seen = resize_for(guide.input, image)
    size_hw = (seen.shape[1], seen.shape[2])
    long_side = min(max(_ROW // (2 + len(interpolators)), _PANEL[0]), _PANEL[1])
    scale = long_side / max(size_hw)
    width, height = max(1, round(size_hw[1] * scale)), max(1, round(size_hw[0] * scale))
    photo = Image.fromarray((seen * 255).round().byte().permute(1, 2, 0).numpy()).resize((width, height))
    panels = []
    for each in level_views(guide, interpolators, image, levels):
        panels += _level_panels(each, size_hw, photo)
    return panels


def _level_panels(each: LevelView, size_hw: tuple[int, int], photo: Image.Image) -> list[Panel]:
    """Coarse feature, what each interpolator makes of it, the goal; below the image, the errors and their scale."""
    components = Components.fitted([each.goal, *each.enlarged.values()])
    highest = float(np.quantile(np.concatenate([error.ravel() for error in each.error.values()]), _HIGHEST)) or 1.0

    def feature(value: Tensor, stride: int) -> Image.Image:
        return _spread(component_colors(components.shares(value)), stride, size_hw, photo.size)

    upper = [Panel(feature(each.coarse, 2 * each.stride), f"{each.level}, half-size image", _grid(each.coarse))]
    lower = [Panel(photo, "image")]
    for name, value in each.enlarged.items():
        upper.append(Panel(feature(value, each.stride), f"{each.level}, {name}"))
        error = heat_colors(each.error[name].numpy() / highest)
        numbers = each.distance[name]
        note = f"L1 {numbers['l1']:.3f}   cosine {numbers['cosine']:.3f}"
        lower.append(Panel(_spread(error, each.stride, size_hw, photo.size), f"error of {name}", note))
    upper.append(Panel(feature(each.goal, each.stride), f"{each.level}, goal", _grid(each.goal)))
    lower.append(Panel(scale_bar(photo.size, highest), f"{each.level}, scale of errors", "L1"))
    return [*upper, *lower]


def _grid(value: Tensor) -> str:
    return f"{value.shape[2]} x {value.shape[1]}"


def _spread(colors: npt.NDArray[np.uint8], stride: int, size_hw: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Each position (h, w, 3) as the square that it stands for, in a picture of width and height ``size``."""
    (height, width), (columns, rows) = size_hw, size
    y = np.minimum(((np.arange(rows) + 0.5) / rows * height / stride).astype(int), colors.shape[0] - 1)
    x = np.minimum(((np.arange(columns) + 0.5) / columns * width / stride).astype(int), colors.shape[1] - 1)
    return Image.fromarray(colors[y[:, None], x])
