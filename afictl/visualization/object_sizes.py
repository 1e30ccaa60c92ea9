"""Sizes of the objects of a dataset beside the levels of a detector, and in sentences what they mean."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from afictl.data import Dataset
from afictl.data.resized_boxes import original_boxes, resized_boxes
from afictl.detectors.anchor_fit import MIN_IOU, AnchorFit, AnchorFitting
from afictl.necks import pyramid_strides
from afictl.presets import InputConfig, Preset
from afictl.presets.architecture import has_anchors

_SMALL_STRIDES = 4
"""Objects of fewer strides of the finest level are small for a detector; at the usual stride of 8 these are those of
less than 32 pixels, which COCO calls small."""
MIN_ANCHOR_SHARE = 0.8
"""Share of objects with a fitting anchor below which anchors are worth a fit."""
_TILE_STEP = 32
_MAX_SIDE = 4096
"""Short side of images in pixels beyond which larger images are no advice."""


@dataclass(frozen=True)
class ObjectSizes:
    """Sizes of the k objects that training uses, k at least 1, as a preset resizes their images for evaluation."""

    dataset: Dataset
    preset: Preset | None = None

    @cached_property
    def original(self) -> np.ndarray:
        """(k,) square root of the area of each box, in pixels of the image file."""
        return _box_sizes(original_boxes(self.dataset)[0])

    @cached_property
    def resized(self) -> np.ndarray:
        """(k,) the same in pixels of the resized image; without a preset in those of the image file."""
        return self.original if self.preset is None else _box_sizes(self._resized_boxes(self.preset))

    @cached_property
    def strides(self) -> dict[str, int]:
        """Stride in pixels of each level of the preset, finest first; empty without one."""
        return {} if self.preset is None else pyramid_strides(self.preset.neck)

    @cached_property
    def anchor_fit(self) -> AnchorFit | None:
        """Fit of the anchors of the preset; None for a detector without anchors."""
        if self.preset is None or not has_anchors(self.preset.detector):
            return None
        detector, boxes = self.preset.detector, self._resized_boxes(self.preset)
        fitting = AnchorFitting(boxes, list(self.strides.values()), detector.anchors_per_octave)
        return fitting.measure(detector.anchor_sizes, detector.anchor_ratios)

    def sentences(self) -> list[str]:
        """What the sizes mean for a detector of the preset, and what to do about objects that are too small for it."""
        if self.preset is None:
            median = f"The median size of an object is {_pixels(self.original)}."
            return [f"{median} Give --preset to see it beside the levels of a detector."]
        config, (level, stride) = self.preset.input, next(iter(self.strides.items()))
        sentences = [
            f"The median size of an object, the square root of the area of its box, is {_pixels(self.original)} in the"
            f" image files and {_pixels(self.resized)} after resizing to {_describe_size(config)}, as in evaluation"
            f" with {self.preset.name}."
        ]
        lost = float((self.resized < stride).mean())
        small = float((self.resized < _SMALL_STRIDES * stride).mean())
        finest = f"the stride of the finest level {level}, {stride} pixels"
        if lost > 0.5:
            sentences.append(f"Most objects ({lost:.0%}) are smaller than {finest}: detectors find hardly any of them.")
        elif small > 0.5:
            sentences.append(
                f"Most objects ({small:.0%}) are smaller than {_SMALL_STRIDES} times {finest}, which detectors often"
                f" miss; {lost:.0%} are smaller than the stride itself."
            )
        else:
            sentences.append(
                f"{lost:.0%} of the objects are smaller than {finest}, and {small:.0%} smaller than"
                f" {_SMALL_STRIDES} times as much."
            )
        return [*sentences, *self.advice(), *self._anchor_sentences()]

    def advice(self) -> list[str]:
        """Ways to enlarge the median object to ``_SMALL_STRIDES`` strides; none where it is as large, or no preset."""
        preset = self.preset
        if preset is None or (self.resized < _SMALL_STRIDES * next(iter(self.strides.values()))).mean() <= 0.5:
            return []
        size, stride = preset.input.test_size, next(iter(self.strides.values()))
        factor = _SMALL_STRIDES * stride / float(np.median(self.resized))
        larger = math.ceil(size * factor / _TILE_STEP) * _TILE_STEP
        sides = self.dataset.sizes_hw
        long_side = math.ceil(larger * float((sides.max(axis=1) / sides.min(axis=1)).max()))
        settings = [f"input.test_size={larger}", f"input.min_sizes=[{larger}]"]
        settings += [f"input.max_size={long_side}"] if long_side > preset.input.max_size else []
        flags, cost = " ".join(f"--set {shlex.quote(setting)}" for setting in settings), (larger / size) ** 2
        advice = []
        if larger <= _MAX_SIDE:
            advice.append(
                f"Larger images help: with {flags} the median object has {_SMALL_STRIDES} strides, for"
                f" {cost:.{0 if cost >= 10 else 1}f} times the computation and memory."
            )
        tile = math.floor(size * float(np.median(self.original)) / (_SMALL_STRIDES * stride) / _TILE_STEP) * _TILE_STEP
        if 2 * _TILE_STEP <= tile < int(np.median(sides.min(axis=1))):
            advice.append(
                f"Tiles help, too: 'afictl data slice DATA OUT --size {tile}' cuts images into tiles for training, and"
                f" eval and predict detect in tiles with --slice {tile}."
            )
        return advice

    def _anchor_sentences(self) -> list[str]:
        fit = self.anchor_fit
        if fit is None or self.preset is None:
            return []
        sentence = f"{fit.share:.0%} of the objects have an anchor of the preset with an IoU of at least {MIN_IOU}"
        if fit.share >= MIN_ANCHOR_SHARE:
            return [f"{sentence}: the anchors fit."]
        return [
            f"{sentence}: 'afictl data anchors DATA --preset {self.preset.name}' looks for anchors that fit better."
        ]

    def _resized_boxes(self, preset: Preset) -> np.ndarray:
        return resized_boxes(self.dataset, preset.input, [preset.input.test_size])


def _describe_size(config: InputConfig) -> str:
    if config.square:
        return f"squares of {min(config.test_size, config.max_size)} pixels"
    return f"a short side of {config.test_size} pixels (long side at most {config.max_size})"


def _box_sizes(boxes: np.ndarray) -> np.ndarray:
    return np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _pixels(sizes: np.ndarray) -> str:
    median = float(np.median(sizes))
    return f"{median:.1f} pixels" if median < 10 else f"{median:.0f} pixels"
