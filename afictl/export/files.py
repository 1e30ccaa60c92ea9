"""Export of a detector or an interpolator to a file whose results are compared with PyTorch's before it is kept.

Legend: H x W an image, h x w a coarse map, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.export import Dim

from afictl import __version__
from afictl.detectors import Detector
from afictl.detectors.adapter import AdaptedDetector
from afictl.errors import UserError, one_line
from afictl.evaluation.category_matching import own_categories
from afictl.export.differences import MAP_TOLERANCE, detection_differences, map_difference, require_small
from afictl.export.formats import Program, trace, write
from afictl.export.graphs import DetectorGraph
from afictl.export.same_padding import constant_same_padding
from afictl.files import atomic_write
from afictl.interpolators import Interpolator, PerStepInterpolator
from afictl.weights import LoadedDetector

_LARGEST_SIDE = 480
"""Of the images of noise, in pixels."""
_FAINT = 0.05
_LEAST_MAP = 3
"""Smallest height and width of a coarse map: padding by reflection needs neighbours."""


class Check(NamedTuple):
    """Results of the file and of PyTorch for one input."""

    name: str
    size_hw: tuple[int, int]
    detections: int | None
    """None for an interpolator."""
    differences: dict[str, float]
    """Output -> largest difference."""


def export_detector(loaded: LoadedDetector, form: str, path: Path, images: Mapping[str, Tensor]) -> list[Check]:
    """Write the file of a detector, unless its results differ from PyTorch's; returns the comparisons.

    Args:
        loaded: the detector, on the CPU.
        form: ``onnx`` or ``torch-export``.
        path: file to write, atomically.
        images: name -> float32 (3, H, W), RGB in 0..1; compared beside noise and faint noise, unless a side is not
            larger than the coarsest stride: torch.export takes a map of a single row or column for another graph.

    Raises:
        UserError: the detector cannot be exported, or a difference is too large; no file is written.
    """
    detector = loaded.detector
    if isinstance(detector, AdaptedDetector):
        raise UserError(f"{loaded.preset.name}: a model of another library; export it with the means of that library")
    graph = DetectorGraph(detector).eval()
    coarsest = max(detector.neck.strides.values())
    example = torch.rand(3, 2 * coarsest + 33, 3 * coarsest + 5)
    with constant_same_padding():
        program = trace(form, graph, [example], [{1: Dim.DYNAMIC, 2: Dim.DYNAMIC}])
    images = {name: image for name, image in images.items() if min(image.shape[1:]) > coarsest}
    with atomic_write(path, named_by_user=True) as draft:
        run = write(form, draft, program, (["image"], graph.names), _describe(loaded))
        checks = [_check_image(run, graph, name, image) for name, image in (*_plain_images(detector), *images.items())]
        for check in checks:
            require_small(check.differences, check.name)
    return checks


def _describe(loaded: LoadedDetector) -> dict[str, object]:
    """What the file says about the detector."""
    config = loaded.preset.input
    return {
        "afictl": __version__,
        "preset": loaded.preset.name,
        "classes": list(loaded.classes),
        "category_ids": own_categories(loaded.classes, loaded.metadata),
        "test_size": config.test_size,
        "max_size": config.max_size,
        "square": config.square,
    }


def _plain_images(detector: Detector) -> Iterator[tuple[str, Tensor]]:
    """An image of noise and one of faint noise, of different sizes that are no multiples of the neck's divisor.

    In an image of a single colour scores tie, and the choice among equal scores differs between programs.
    """
    side = max(min(detector.input.test_size, _LARGEST_SIDE), max(detector.neck.strides.values()) + 1)
    generator = torch.Generator().manual_seed(0)
    yield "noise", torch.rand(3, side, side * 4 // 3 + 5, generator=generator)
    yield "faint noise", 0.5 + _FAINT * torch.rand(3, side * 4 // 3 + 3, side, generator=generator)


@torch.no_grad()
def _check_image(run: Program, graph: DetectorGraph, name: str, image: Tensor) -> Check:
    """The results of a file and of the detector for an image."""
    expected = graph.detector([image])[0]
    try:
        actual = dict(zip(graph.names, run(image), strict=True))
        differences = detection_differences(actual, expected)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except (AssertionError, RuntimeError) as error:  # an assertion of torch.export about sizes
        raise UserError(f"{name}: the file fails: {one_line(error):.200}") from error
    return Check(name, (image.shape[1], image.shape[2]), len(expected["boxes"]), differences)


def export_interpolator(interpolator: Interpolator, form: str, path: Path) -> list[Check]:
    """Write the file of an interpolator, unless its results differ from PyTorch's; returns the comparisons.

    Inputs are ``coarse`` (1, C, h, w) and, for a kind that reads it, ``fine`` (1, C, 2h, 2w); h and w at least 3.

    Raises:
        UserError: it cannot be exported, or a difference is too large; no file is written.
    """
    if isinstance(interpolator, PerStepInterpolator):
        raise UserError("each enlargement has an interpolator of its own: export the detector, --part detector")
    interpolator = interpolator.eval()
    names = ["coarse", *(["fine"] * interpolator.needs_fine)]
    height, width = Dim("height", min=_LEAST_MAP), Dim("width", min=_LEAST_MAP)
    shapes = [{2: height, 3: width}, {2: 2 * height, 3: 2 * width}]
    program = trace(form, interpolator, _maps(interpolator, 5, 6), shapes[: len(names)])
    description: dict[str, object] = {"afictl": __version__, "kind": interpolator.kind, **interpolator.config}
    with atomic_write(path, named_by_user=True) as draft:
        run = write(form, draft, program, (names, ["enlarged"]), description)
        return [_check_maps(run, interpolator, *size_hw) for size_hw in ((7, 9), (12, 5))]


def _maps(interpolator: Interpolator, height: int, width: int) -> list[Tensor]:
    """Random inputs of an interpolator, with a coarse map of that size."""
    generator = torch.Generator().manual_seed(0)
    scales = (1, 2) if interpolator.needs_fine else (1,)
    shapes = [(1, interpolator.channels, scale * height, scale * width) for scale in scales]
    return [torch.randn(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def _check_maps(run: Program, interpolator: Interpolator, height: int, width: int) -> Check:
    maps = _maps(interpolator, height, width)
    result = run(*maps)
    enlarged = result if isinstance(result, Tensor) else result[0]
    difference = map_difference(enlarged, interpolator(*maps))
    if not difference <= MAP_TOLERANCE:
        raise UserError(f"maps of the file differ from PyTorch's by {difference:.3g} of their range")
    return Check("random maps", (height, width), None, {"map": difference})
