"""What interpolators make of the guide's features of a half-size image, as pictures beside those of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor, nn

from afictl.data.transforms import resize_for
from afictl.detectors import Detector
from afictl.errors import UserError, did_you_mean
from afictl.visualization.colormaps import component_colors, heat_colors, scale_bar
from afictl.visualization.components import Components
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.level_views import LevelView, is_guided, level_views
from afictl.visualization.pictures import Picture
from afictl.visualization.style import MUTED, PAPER

_PANEL = (280, 480)  # pixels of a panel's long side: with many and with few panels in a row
_ROW = 2600  # pixels of a row, if its panels may shrink
_HIGHEST = 0.99  # quantile of the errors at which their colours end
_TEXT = (
    "Each interpolator enlarges the guide's feature of the half-size image; the goal is the guide's feature of the "
    "image itself. Colours are the first three principal components of all enlarged maps and the goal of a level "
    "together (lightness, blue to yellow, green to red): the same colour is the same feature within a level. "
    "Below: mean absolute difference to the goal at each position, on one scale within a level."
)
_LEARNED = (
    " Only 'pretrain' trains for this goal; an interpolator of a fine-tuned detector learned to serve its detections."
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
        UserError: a level that is unknown or named twice, an interpolator of another width, or nothing to draw because
            all interpolators need a finer map and the guide's neck has none for these levels.
    """
    chosen = chosen_levels(guide, levels)
    for name, module in interpolators.items():
        if module.channels != guide.neck.channels:
            raise UserError(f"{name} is made for {module.channels} channels, the guide has {guide.neck.channels}")
        module.to(next(guide.parameters()).device).eval()
    learned = any(True for module in interpolators.values() for _ in module.parameters())
    for picture in pictures:
        panels, alone = _panels(guide, interpolators, picture.read(), chosen)
        text = _TEXT + (_LEARNED if learned else "") + _about_finer_maps(interpolators, alone)
        title = f"{picture.name}: the guide's features, enlarged"
        yield Figure(f"{picture.name}-features", panels, title, text, columns=2 + len(interpolators))


def chosen_levels(guide: Detector, levels: Sequence[str]) -> list[str]:
    """``levels`` from fine to coarse, or all of the guide's.

    Raises:
        UserError: the guide has no such level, or it is named twice.
    """
    known = list(guide.neck.strides)
    for level in levels:
        if level not in known:
            raise UserError(f"--levels {level or repr(level)}: the guide has no such level{did_you_mean(level, known)}")
        if levels.count(level) > 1:
            raise UserError(f"--levels: {level} is named twice")
    return [level for level in known if level in levels or not levels]


def _about_finer_maps(interpolators: Mapping[str, nn.Module], alone: Sequence[str]) -> str:
    """A sentence about those that need one, and the levels ``alone`` at which there is none; nothing without them."""
    names = [name for name, module in interpolators.items() if is_guided(module)]
    if not names:
        return ""
    without = f"; it has none for {', '.join(alone)}, which it never enlarges" if alone else ""
    return f" {', '.join(names)}: given the finer map of the guide's neck for the half-size image too{without}."


def _panels(
    guide: Detector, interpolators: Mapping[str, nn.Module], image: Tensor, levels: Sequence[str]
) -> tuple[list[Panel], list[str]]:
    """The panels of all levels at which there is anything to draw, and the levels without a finer map if one is needed.

    Raises:
        UserError: there is nothing to draw at any level.
    """
    seen = resize_for(guide.input, image)
    size_hw = (seen.shape[1], seen.shape[2])
    long_side = min(max(_ROW // (2 + len(interpolators)), _PANEL[0]), _PANEL[1])
    scale = long_side / max(size_hw)
    width, height = max(1, round(size_hw[1] * scale)), max(1, round(size_hw[0] * scale))
    photo = Image.fromarray((seen * 255).round().byte().permute(1, 2, 0).numpy()).resize((width, height))
    panels: list[Panel] = []
    alone = []
    for each in level_views(guide, interpolators, image, levels):
        if each.enlarged:
            panels += _level_panels(each, list(interpolators), size_hw, photo)
        if len(each.enlarged) < len(interpolators):
            alone.append(each.level)
    if not panels:
        raise UserError(
            f"{', '.join(interpolators)}: needs the finer map that the guide's neck has for what it enlarges,"
            f" and it does not enlarge {', '.join(levels)}; choose other --levels or another interpolator too"
        )
    return panels, alone


def _level_panels(each: LevelView, names: Sequence[str], size_hw: tuple[int, int], photo: Image.Image) -> list[Panel]:
    """Coarse feature, what each interpolator makes of it, the goal; below the image, the errors and their scale."""
    components = Components.fitted([each.goal, *each.enlarged.values()])
    highest = float(np.quantile(np.concatenate([error.ravel() for error in each.error.values()]), _HIGHEST)) or 1.0

    def feature(value: Tensor, stride: int) -> Image.Image:
        return _spread(component_colors(components.shares(value)), stride, size_hw, photo.size)

    upper = [Panel(feature(each.coarse, 2 * each.stride), f"{each.level}, half-size image", _grid(each.coarse))]
    lower = [Panel(photo, "image")]
    for name in names:
        titles = f"{each.level}, {name}", f"error of {name}"
        if name in each.enlarged:
            upper.append(Panel(feature(each.enlarged[name], each.stride), titles[0]))
            error = heat_colors(each.error[name].numpy() / highest)
            note = "L1 {l1:.3f}   cosine {cosine:.3f}".format(**each.distance[name])
            lower.append(Panel(_spread(error, each.stride, size_hw, photo.size), titles[1], note))
        else:
            for row, title in zip((upper, lower), titles, strict=True):
                row.append(Panel(_nothing(photo.size), title, "no finer map"))
    upper.append(Panel(feature(each.goal, each.stride), f"{each.level}, goal", _grid(each.goal)))
    lower.append(Panel(scale_bar(photo.size, highest), f"{each.level}, scale of errors", "L1"))
    return [*upper, *lower]


def _nothing(size: tuple[int, int]) -> Image.Image:
    """An empty frame: stands where an interpolator cannot work."""
    picture = Image.new("RGB", size, PAPER)
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=MUTED)
    return picture


def _grid(value: Tensor) -> str:
    return f"{value.shape[2]} x {value.shape[1]}"


def _spread(colors: npt.NDArray[np.uint8], stride: int, size_hw: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """Each position (h, w, 3) as the square that it stands for, in a picture of width and height ``size``."""
    (height, width), (columns, rows) = size_hw, size
    y = np.minimum(((np.arange(rows) + 0.5) / rows * height / stride).astype(int), colors.shape[0] - 1)
    x = np.minimum(((np.arange(columns) + 0.5) / columns * width / stride).astype(int), colors.shape[1] - 1)
    return Image.fromarray(colors[y[:, None], x])
