"""The images on which methods differ most, each drawn once for the ground truth and once for each method."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from PIL import Image, features
from torch import Tensor

from afictl.comparison.results import Comparison
from afictl.data import Dataset, read_image
from afictl.data.formats.coco import load_coco_file
from afictl.data.segmentation import Segmentation, draw_segmentation, normalize_segmentation
from afictl.errors import UserError
from afictl.evaluation.predictions import iter_results
from afictl.run_folder import PREDICTIONS
from afictl.visualization.detections import GROUND_TRUTH, detections_figure
from afictl.visualization.disagreement import rank_by_disagreement
from afictl.visualization.palette import Color
from afictl.visualization.side_by_side import mark_unshared

THRESHOLD = 0.5
"""Score from which a detection is drawn and counts in the ranking."""
_IMAGES = 8
_LONG_SIDE = 960  # pixels
_STEPS = ((960, 80), (960, 60), (800, 50), (640, 45), (480, 40))
"""Long side and quality, tried until a picture fits its share of the budget."""
_SMALLEST = 20_000
"""Bytes of a picture worth looking at: fewer images rather than worse ones."""

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """One picture of an image: the ground truth's or a method's."""

    source: str
    """Data URI."""
    width: int
    height: int
    choice: str
    note: str
    """How many objects or detections it shows."""


@dataclass(frozen=True)
class Shot:
    """One image as every choice shows it."""

    name: str
    score: float
    """Mean number of objects in which two methods differ."""
    drawings: tuple[Drawing, ...]
    legend: tuple[tuple[str, str], ...]
    """Classes and their colours, as ``#rrggbb``."""


@dataclass(frozen=True)
class Gallery:
    """The section's content; without any shot, ``notes`` say why."""

    seed: int | None
    shots: tuple[Shot, ...]
    notes: tuple[str, ...]

    @property
    def choices(self) -> list[str]:
        """What the switch offers."""
        return [drawing.choice for drawing in self.shots[0].drawings] if self.shots else []


def draw_gallery(comparison: Comparison, budget: int) -> Gallery:
    """Draw the images on which the methods of the first seed differ most, in at most ``budget`` bytes of text.

    What is missing (predictions of a method, the annotations, an image file) is told in ``notes``.
    """
    baseline = comparison.methods[0]
    if not baseline.runs:
        return Gallery(None, (), ("Nothing was trained, so there are no detections to show.",))
    seed = baseline.runs[0].seed
    found, notes = _read_predictions(comparison, seed)
    if len(found) < 2:
        return Gallery(seed, (), (*notes, "Detections of at least two methods are needed."))
    try:
        index = load_coco_file(comparison.annotation_file, comparison.image_dir)
    except UserError as error:
        return Gallery(seed, (), (*notes, f"The ground truth cannot be read: {error}"))
    shots, missing = _draw_shots(index, found, budget)
    if not shots and not missing:
        missing = ["All methods show the same objects on every image."]
    return Gallery(seed, tuple(shots), (*notes, *missing))


def _read_predictions(comparison: Comparison, seed: int) -> tuple[dict[str, Rows], list[str]]:
    """Results of each method's run with ``seed``, those of low scores left out; and what could not be read."""
    found: dict[str, Rows] = {}
    notes = []
    for method in comparison.methods:
        folders = [cell.folder for cell in method.runs if cell.seed == seed]
        try:
            if not folders:
                raise UserError(f"no run with seed {seed}")
            found[method.name] = _read_rows(folders[0] / PREDICTIONS)
        except UserError as error:
            notes.append(f"{method.name} is not shown: {error}")
    return found, notes


def _read_rows(path: Path) -> Rows:
    """What the ranking looks at; of a large data set that is a small part of the file."""
    return [msgspec.to_builtins(result) for result in iter_results(path) if result.score >= THRESHOLD / 2]


def _draw_shots(index: Dataset, found: Mapping[str, Rows], budget: int) -> tuple[list[Shot], list[str]]:
    positions = {image_id: i for i, image_id in enumerate(index.image_ids)}
    wanted = max(1, min(_IMAGES, budget // ((len(found) + 1) * _SMALLEST)))
    share = budget // wanted
    shots: list[Shot] = []
    missing: list[str] = []
    for image_id, score in rank_by_disagreement(found, THRESHOLD):
        if len(shots) == wanted or len(missing) == _IMAGES:
            break
        if image_id not in positions:
            continue
        try:
            shot = _draw_shot(index, positions[image_id], found, score, share)
        except UserError as error:
            missing.append(f"An image is left out: {error}")
            continue
        used = sum(len(drawing.source) for drawing in shot.drawings)
        if used > budget:
            break
        budget -= used
        shots.append(shot)
    return shots, missing


def _draw_shot(index: Dataset, i: int, found: Mapping[str, Rows], score: float, share: int) -> Shot:
    size_hw = index.size_hw(i)
    image = read_image(index.image_path(i), size_hw)
    scale = min(1.0, _LONG_SIDE / max(size_hw))
    seen_hw = max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))
    objects = index.objects(i)
    truth = {"boxes": objects.boxes * scale, "labels": objects.labels, "crowd": objects.crowd}
    truth |= _masks(objects.segmentations, size_hw, seen_hw)
    labels = {category: label for label, category in enumerate(index.category_ids, start=1)}
    here = {method: _rows_of(rows, index.image_id(i), labels) for method, rows in found.items()}
    detections = {method: _detection(rows, labels, size_hw, seen_hw, scale) for method, rows in here.items()}
    name = str(index.image_path(i).relative_to(index.image_dir))
    figure = detections_figure(
        name, _resized(image, seen_hw), {GROUND_TRUTH: truth, **mark_unshared(detections, THRESHOLD)}, index.classes
    )
    sources = _encoded([panel.picture for panel in figure.panels], share)
    drawings = tuple(
        Drawing(source, *panel.picture.size, panel.title, panel.note)
        for source, panel in zip(sources, figure.panels, strict=True)
    )
    return Shot(name, score, drawings, tuple((each, _hex(color)) for each, color in figure.legend))


def _rows_of(rows: Rows, image_id: int, labels: Mapping[int, int]) -> Rows:
    return [row for row in rows if row["image_id"] == image_id and row["category_id"] in labels]


def _detection(
    rows: Rows, labels: Mapping[int, int], size_hw: tuple[int, int], seen_hw: tuple[int, int], scale: float
) -> dict[str, Tensor]:
    xywh = torch.tensor([row["bbox"] for row in rows], dtype=torch.float32).reshape(-1, 4)
    outlines = [normalize_segmentation(row.get("segmentation"), size_hw) for row in rows]
    return {
        "boxes": torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1) * scale,
        "labels": torch.tensor([labels[row["category_id"]] for row in rows], dtype=torch.int64),
        "scores": torch.tensor([row["score"] for row in rows], dtype=torch.float32),
        **_masks(outlines, size_hw, seen_hw),
    }


def _masks(
    outlines: Sequence[Segmentation | None], size_hw: tuple[int, int], seen_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """``masks`` (N,h,w) bool at ``seen_hw``, or nothing where no object has an outline."""
    if not any(outline is not None for outline in outlines):
        return {}
    masks = torch.zeros((len(outlines), *seen_hw), dtype=torch.bool)
    for mask, outline in zip(masks, outlines, strict=True):
        if outline is not None:
            mask.copy_(torch.from_numpy(draw_segmentation(outline, size_hw, seen_hw)))
    return {"masks": masks}


def _resized(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Uint8 (3,H,W) at another size: one image serves all panels, so that they need not shrink it again each."""
    if image.shape[1:] == size_hw:
        return image
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    smaller = picture.resize((size_hw[1], size_hw[0]), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(smaller.tobytes()), dtype=torch.uint8).reshape(*size_hw, 3).permute(2, 0, 1)


def _encoded(pictures: Sequence[Image.Image], most: int) -> list[str]:
    """Data URIs of pictures of one image, all of the same quality, of ``most`` characters together where that goes."""
    sources: list[str] = []
    for step in _STEPS:
        first = _data_uri(pictures[0], *step)
        if len(first) * len(pictures) > most and step != _STEPS[-1]:
            continue  # the others show the same photograph
        sources = [first, *(_data_uri(picture, *step) for picture in pictures[1:])]
        if sum(map(len, sources)) <= most:
            break
    return sources


def _data_uri(picture: Image.Image, long_side: int, quality: int) -> str:
    kind, options = ("WEBP", {"method": 2}) if features.check("webp") else ("JPEG", {})  # Pillow can be built without
    smaller = picture.copy()
    smaller.thumbnail((long_side, long_side))
    file = io.BytesIO()
    smaller.save(file, kind, quality=quality, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
