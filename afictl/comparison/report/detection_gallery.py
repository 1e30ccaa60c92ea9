"""Gallery of the images on which methods differ most, with panels for the ground truth and each method."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import torch
from PIL import Image, features
from torch import Tensor

from afictl.comparison.records import read_result
from afictl.comparison.report.theme import css_color
from afictl.comparison.results import Comparison
from afictl.data import Dataset
from afictl.data.fingerprint import ids_fingerprint
from afictl.errors import UserError
from afictl.evaluation.prediction_writer import CocoResult
from afictl.evaluation.predictions import iter_results
from afictl.run_folder import PREDICTIONS, RESULT
from afictl.visualization.detections import GROUND_TRUTH, detections_figure
from afictl.visualization.disagreement import rank_by_disagreement
from afictl.visualization.drawing import Detection
from afictl.visualization.figure_files import data_url
from afictl.visualization.pictures import Picture, results_to_detection
from afictl.visualization.side_by_side import mark_unshared

THRESHOLD = 0.5
"""Minimum score of a detection that is drawn and counted in the ranking."""
_MAX_IMAGES = 8
_LONG_SIDE_PX = 960
_ENCODINGS = ((960, 80), (960, 60), (800, 50), (640, 45), (480, 40))
"""Pairs of long side in pixels and quality, tried in order until a picture is within its budget."""
_MIN_PICTURE_BYTES = 20_000
"""A small budget reduces the number of images before their quality."""


@dataclass(frozen=True)
class GalleryPanel:
    """One picture: the image with the ground truth or the detections of a method."""

    source: str
    """``data:`` URL."""
    width: int
    height: int
    title: str
    note: str
    """Number of objects or detections."""


@dataclass(frozen=True)
class GalleryImage:
    """One image with its panels."""

    name: str
    score: float
    """Mean number of differing detections over all pairs of methods; see ``disagreement``."""
    panels: tuple[GalleryPanel, ...]
    legend: tuple[tuple[str, str], ...]
    """Pairs of class and colour, as ``#rrggbb``."""


@dataclass(frozen=True)
class Gallery:
    """Content of the section; ``notes`` explain missing parts."""

    seed: int | None
    images: tuple[GalleryImage, ...]
    notes: tuple[str, ...]

    @property
    def panel_titles(self) -> list[str]:
        """Titles of the panels, between which the page switches."""
        return [panel.title for panel in self.images[0].panels] if self.images else []


def draw_gallery(comparison: Comparison, budget: int) -> Gallery:
    """Draw the images on which methods differ most, for the first seed, in at most ``budget`` bytes of base64 text.

    Missing predictions and images are reported in ``notes``.
    """
    baseline = comparison.methods[0]
    if not baseline.runs:
        return Gallery(None, (), ("There are no detections, as nothing was trained.",))
    seed = baseline.runs[0].seed
    dataset = comparison.held_out
    if dataset is None:
        return Gallery(seed, (), ("There is no ground truth.",))
    results, notes = _read_predictions(comparison, seed, dataset)
    if len(results) < 2:
        return Gallery(seed, (), (*notes, "Detections of at least two methods are needed."))
    images, missing = _draw_images(dataset, results, budget)
    if not images and not missing:
        missing = [_no_difference(results)]
    return Gallery(seed, tuple(images), (*notes, *missing))


def _no_difference(results: Mapping[str, list[CocoResult]]) -> str:
    """Reason for an empty gallery."""
    if any(row["score"] >= THRESHOLD for rows in results.values() for row in rows):
        return f"All methods have the same detections with a score of {THRESHOLD} or more on every image."
    return f"No method has a detection with a score of {THRESHOLD} or more, so there is nothing to draw."


def _read_predictions(
    comparison: Comparison, seed: int, dataset: Dataset
) -> tuple[dict[str, list[CocoResult]], list[str]]:
    """Results of the run with ``seed`` of each method, without low scores, and notes on unreadable files."""
    results: dict[str, list[CocoResult]] = {}
    notes = []
    for method in comparison.methods:
        folders = [run.folder for run in method.runs if run.seed == seed]
        try:
            if not folders:
                raise UserError(f"no run with seed {seed}")
            _require_same_ids(folders[0], dataset)
            results[method.name] = _read_results(folders[0] / PREDICTIONS)
        except UserError as error:
            notes.append(f"{method.name} is left out: {error}")
    return results, notes


def _require_same_ids(folder: Path, dataset: Dataset) -> None:
    """Refuse predictions of a run whose annotations had other ids, with which images and classes would be exchanged."""
    ids = read_result(folder).ids if (folder / RESULT).is_file() else ""
    if ids and ids != ids_fingerprint(dataset):
        raise UserError(f"{folder / PREDICTIONS}: has other ids than {dataset.annotation_file}")


def _read_results(path: Path) -> list[CocoResult]:
    """The results that affect the ranking, a small part of the file of a large dataset."""
    return [msgspec.to_builtins(result) for result in iter_results(path) if result.score >= THRESHOLD / 2]


def _draw_images(
    dataset: Dataset, results: Mapping[str, list[CocoResult]], budget: int
) -> tuple[list[GalleryImage], list[str]]:
    indices = {image_id: i for i, image_id in enumerate(dataset.image_ids)}
    max_images = max(1, min(_MAX_IMAGES, budget // ((len(results) + 1) * _MIN_PICTURE_BYTES)))
    image_budget = budget // max_images
    images: list[GalleryImage] = []
    missing: list[str] = []
    for image_id, score in rank_by_disagreement(results, THRESHOLD):
        if len(images) == max_images or len(missing) == _MAX_IMAGES:
            break
        if image_id not in indices:
            continue
        try:
            image = _draw_image(dataset, indices[image_id], results, score, image_budget)
        except UserError as error:
            missing.append(f"An image is left out: {error}")
            continue
        size = sum(len(panel.source) for panel in image.panels)
        if size > budget:
            break
        budget -= size
        images.append(image)
    return images, missing


def _draw_image(
    dataset: Dataset, i: int, results: Mapping[str, list[CocoResult]], score: float, budget: int
) -> GalleryImage:
    size_hw = dataset.size_hw(i)
    name = str(dataset.image_path(i).relative_to(dataset.image_dir))
    picture = Picture(name, dataset.image_path(i), size_hw, partial(dataset.objects, i))
    image = picture.read()
    scale = min(1.0, _LONG_SIDE_PX / max(size_hw))
    drawn_hw = max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))
    labels = {category: label for label, category in enumerate(dataset.category_ids, start=1)}
    detections = {
        method: results_to_detection(_select(rows, dataset.image_id(i), labels), labels, size_hw, drawn_hw)
        for method, rows in results.items()
    }
    panels: dict[str, Detection] = {GROUND_TRUTH: picture.ground_truth(drawn_hw) or {}}
    panels |= mark_unshared(detections, THRESHOLD)
    figure = detections_figure(name, _resize(image, drawn_hw), panels, dataset.classes)
    sources = _encode([panel.picture for panel in figure.panels], budget)
    gallery_panels = tuple(
        GalleryPanel(source, *panel.picture.size, panel.title, panel.note)
        for source, panel in zip(sources, figure.panels, strict=True)
    )
    return GalleryImage(name, score, gallery_panels, tuple((label, css_color(color)) for label, color in figure.legend))


def _select(results: list[CocoResult], image_id: int, labels: Mapping[int, int]) -> list[CocoResult]:
    return [row for row in results if row["image_id"] == image_id and row["category_id"] in labels]


def _resize(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize an image, uint8 (3,H,W), by Lanczos resampling."""
    if image.shape[1:] == size_hw:
        return image
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    resized = picture.resize((size_hw[1], size_hw[0]), Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).reshape(*size_hw, 3).permute(2, 0, 1)


def _encode(pictures: Sequence[Image.Image], budget: int) -> list[str]:
    """Encode pictures of one image as ``data:`` URLs of equal quality, if possible within ``budget`` characters."""
    sources: list[str] = []
    for encoding in _ENCODINGS:
        first = _encode_picture(pictures[0], *encoding)
        if len(first) * len(pictures) > budget and encoding != _ENCODINGS[-1]:
            continue  # the other pictures have about the same size
        sources = [first, *(_encode_picture(picture, *encoding) for picture in pictures[1:])]
        if sum(map(len, sources)) <= budget:
            break
    return sources


def _encode_picture(picture: Image.Image, long_side: int, quality: int) -> str:
    kind, options = ("WEBP", {"method": 2}) if features.check("webp") else ("JPEG", {})  # WebP is optional in Pillow
    thumbnail = picture.copy()
    thumbnail.thumbnail((long_side, long_side))
    file = io.BytesIO()
    thumbnail.save(file, kind, quality=quality, **options)
    return data_url(file.getvalue(), f"image/{kind.lower()}")
