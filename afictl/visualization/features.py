"""Figures of a guide's features of the half-size image, enlarged by interpolators, and of the target features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from afictl.data.transforms import resize_for
from afictl.detectors import Detector
from afictl.detectors.image_memory import require_image_memory
from afictl.errors import UserError, did_you_mean
from afictl.interpolators import Interpolator
from afictl.visualization.colormaps import component_colors, heat_colors, scale_bar
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.level_features import LevelFeatures, enlarge_levels
from afictl.visualization.palette import MUTED, PAPER
from afictl.visualization.pictures import Picture
from afictl.visualization.principal_components import PrincipalComponents

_MAX_COLUMNS = 11  # of one row for a level
_PANEL_PX = (280, 480)  # minimum and maximum long side of a panel
_ROW_PX = 2600  # width of a row, which determines the size of its panels
_ERROR_QUANTILE = 0.99  # end of the colour scale
_TEXT = (
    "Each interpolator enlarges the guide's features of the half-size image; the target is the guide's features of the "
    "image itself. Colours are the first three principal components of all enlarged maps and the target of a level "
    "together (lightness, blue to yellow, green to red), so that equal colours are equal features within a level. "
    "Errors are the mean absolute difference to the target at each position, on one colour scale per level."
)
_LEARNED = (
    " Only 'pretrain' trains for this target; the interpolator of a fine-tuned detector is trained for detection."
)


def feature_figures(
    guide: Detector, interpolators: Mapping[str, Interpolator], pictures: Sequence[Picture], levels: Sequence[str] = ()
) -> Iterator[Figure]:
    """Yield a figure of each image with a row of features and errors per level, or two of more than four interpolators.

    Args:
        guide: detector in eval mode.
        interpolators: interpolator by the title of its panel; set to eval mode.
        pictures: images to draw.
        levels: levels of the guide's pyramid; if empty, all that ``enlarge_levels`` has features of.

    Raises:
        UserError: an unknown or repeated level, or one without such features, an interpolator of another width, only
            interpolators that need a finer map and levels for which the guide's neck has none, or too little memory.
    """
    require_image_memory(guide.preset, next(guide.parameters()).device)
    selection = select_levels(guide, levels)
    for name, module in interpolators.items():
        if module.channels != guide.neck.channels:
            raise UserError(f"{name} has {module.channels} channels, the guide has {guide.neck.channels}")
        module.to(next(guide.parameters()).device).eval()
    learned = any(module.learned for module in interpolators.values())
    for picture in pictures:
        panels, levels_without_fine = _panels(guide, interpolators, picture.read(), selection)
        text = _TEXT + (_LEARNED if learned else "") + _explain_finer_maps(interpolators, levels_without_fine)
        title = f"{picture.title}: the guide's features, enlarged"
        yield Figure(f"{picture.name}-features", panels, title, text, columns=_num_columns(len(interpolators)))


def select_levels(guide: Detector, levels: Sequence[str]) -> list[str]:
    """``levels`` from fine to coarse.

    Raises:
        UserError: an unknown or repeated level.
    """
    guide_levels = list(guide.neck.strides)
    for level in levels:
        if level not in guide_levels:
            raise UserError(
                f"--levels {level or repr(level)}: the guide has no such level{did_you_mean(level, guide_levels)}"
            )
        if levels.count(level) > 1:
            raise UserError(f"--levels: {level} is named twice")
    return [level for level in guide_levels if level in levels]


def _explain_finer_maps(interpolators: Mapping[str, Interpolator], levels_without_fine: Sequence[str]) -> str:
    """A sentence on interpolators that need a finer map and the levels without one; empty if none needs it."""
    names = [name for name, module in interpolators.items() if module.needs_fine]
    if not names:
        return ""
    exception = ""
    if levels_without_fine:
        exception = f"; it has none for {', '.join(levels_without_fine)}, which it never enlarges"
    return f" {', '.join(names)}: with the finer map of the guide's neck for the half-size image too{exception}."


def _num_columns(num_methods: int) -> int:
    """Panels in a row: all of a level, or its features alone."""
    return columns if (columns := 2 * num_methods + 3) <= _MAX_COLUMNS else num_methods + 2


def _panels(
    guide: Detector, interpolators: Mapping[str, Interpolator], image: Tensor, levels: Sequence[str]
) -> tuple[list[Panel], list[str]]:
    """Panels of all levels, and the levels without the finer map that an interpolator needs.

    Raises:
        UserError: no interpolator enlarges any of the levels.
    """
    resized = resize_for(guide.input, image)
    size_hw = (resized.shape[1], resized.shape[2])
    columns = _num_columns(len(interpolators))
    long_side = min(max(_ROW_PX // columns, _PANEL_PX[0]), _PANEL_PX[1])
    scale = long_side / max(size_hw)
    width, height = max(1, round(size_hw[1] * scale)), max(1, round(size_hw[0] * scale))
    photo = Image.fromarray((resized * 255).round().byte().permute(1, 2, 0).numpy()).resize((width, height))
    panels: list[Panel] = []
    levels_without_fine = []
    for features in enlarge_levels(guide, interpolators, image, levels):
        if features.enlarged:
            maps, errors = _level_panels(features, list(interpolators), size_hw, photo.size)
            filling = [Panel(Image.new("RGB", photo.size, PAPER), "")] * (2 * columns - len(maps) - len(errors))
            panels += [*maps, *errors, *(filling if len(maps) == columns else ())]
        if len(features.enlarged) < len(interpolators):
            levels_without_fine.append(features.level)
    if not panels:
        raise UserError(
            f"{', '.join(interpolators)}: needs the finer map of a level that the guide's neck enlarges, and it does"
            f" not enlarge {', '.join(levels_without_fine)}; choose other --levels or add another interpolator"
        )
    return [*panels, Panel(photo, "image")], levels_without_fine


def _level_panels(
    features: LevelFeatures, names: Sequence[str], size_hw: tuple[int, int], size: tuple[int, int]
) -> tuple[list[Panel], list[Panel]]:
    """Panels of ``size``: coarse map, enlarged maps and target; errors and their scale."""
    components = PrincipalComponents.fit([features.target, *features.enlarged.values()])
    errors = np.concatenate([error.ravel() for error in features.error.values()])
    highest = float(np.quantile(errors, _ERROR_QUANTILE)) or 1.0

    def draw(value: Tensor, stride: int) -> Image.Image:
        return _enlarge_positions(component_colors(components.normalized(value)), stride, size_hw, size)

    coarse, target, level = features.coarse, features.target, features.level
    upper = [Panel(draw(coarse, 2 * features.stride), f"{level}, half-size image", _size_text(coarse))]
    lower = []
    for name in names:
        titles = f"{level}, {name}", f"error of {name}"
        if name in features.enlarged:
            upper.append(Panel(draw(features.enlarged[name], features.stride), titles[0]))
            error = heat_colors(features.error[name].numpy() / highest)
            note = "L1 {l1:.3f}   cosine {cosine:.3f}".format(**features.distance[name])
            lower.append(Panel(_enlarge_positions(error, features.stride, size_hw, size), titles[1], note))
        else:
            for row, title in zip((upper, lower), titles, strict=True):
                row.append(Panel(_empty_frame(size), title, "no finer map"))
    upper.append(Panel(draw(target, features.stride), f"{level}, target", _size_text(target)))
    lower.append(Panel(scale_bar(size, highest), f"{level}, scale of errors", "L1"))
    return upper, lower


def _empty_frame(size: tuple[int, int]) -> Image.Image:
    """Placeholder for an interpolator without the finer map that it needs."""
    picture = Image.new("RGB", size, PAPER)
    ImageDraw.Draw(picture).rectangle((0, 0, size[0] - 1, size[1] - 1), outline=MUTED)
    return picture


def _size_text(value: Tensor) -> str:
    return f"{value.shape[2]} x {value.shape[1]}"


def _enlarge_positions(
    colors: npt.NDArray[np.uint8], stride: int, size_hw: tuple[int, int], size: tuple[int, int]
) -> Image.Image:
    """Draw each position (h, w, 3) as a square of ``stride`` pixels of the image, in a picture of size ``size``."""
    (height, width), (columns, rows) = size_hw, size
    y = np.minimum(((np.arange(rows) + 0.5) / rows * height / stride).astype(int), colors.shape[0] - 1)
    x = np.minimum(((np.arange(columns) + 0.5) / columns * width / stride).astype(int), colors.shape[1] - 1)
    return Image.fromarray(colors[y[:, None], x])
