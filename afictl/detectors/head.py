"""The contract between a detector and its head, and the types that pass between them.

Legend: N images, H x W the batch after padding, K classes without background. Boxes are (x1, y1, x2, y2) in pixels of
the batch, which are those of the images: padding is on the right and at the bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

FeatureMaps: TypeAlias = dict[str, Tensor]
"""Level (``p2``, ``p3``, ...) to its map (N, C, h, w), finest first."""
Target: TypeAlias = dict[str, Tensor]
"""Ground truth of an image: ``boxes`` float (n, 4), ``labels`` int64 (n,) in 1..K, for masks ``masks`` (n, H, W)."""
Detections: TypeAlias = dict[str, Tensor]
"""Of an image: ``boxes`` (n, 4), ``labels`` int64 (n,) in 1..K, ``scores`` (n,) best first; with masks ``mask_probs``
(n, M, M), probabilities on the grid of each box; with mask scoring ``mask_scores`` (n,)."""
Losses: TypeAlias = dict[str, Tensor]
"""Name (``loss_...``) to a float32 scalar."""


class ImageBatch(NamedTuple):
    """Normalised images in one tensor, and their sizes."""

    tensor: Tensor
    """(N, 3, H, W), zero where an image is padded."""
    sizes: list[tuple[int, int]]
    """Height and width of each image without the padding."""


class HeadPart(NamedTuple):
    """A part of a head whose cost is measured separately."""

    name: str
    workload: str
    """The input of ``run`` for one image, such as ``1000 regions``."""
    run: Callable[[], object]
    """Run the part once."""
    modules: tuple[nn.Module, ...]


class Head(Protocol):
    """Everything after the neck. The protocols below add what only some heads can do."""

    class_layers: tuple[str, ...]
    """Prefixes, relative to the head, of the names of parameters whose shapes depend on the classes."""

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """Losses of a batch, in train mode. ``Detector`` has checked the targets."""

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections of each image, without masks, in eval mode."""


@runtime_checkable
class HeadWithMasks(Head, Protocol):
    """A head that segments objects in given boxes."""

    def segment(self, batch: ImageBatch, features: FeatureMaps, detections: Sequence[Detections]) -> list[Detections]:
        """The ``detections`` with ``mask_probs`` and, with mask scoring, ``mask_scores``."""


@runtime_checkable
class HeadWithParts(Head, Protocol):
    """A head whose cost is counted part by part."""

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """The parts, in eval mode; ``features`` may be on the meta device."""


@runtime_checkable
class HeadWithClassLogits(Head, Protocol):
    """A head that returns differentiable class logits for a given box, as Grad-CAM needs them."""

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """Logits (n,) of class ``label`` for ``box`` (4,) in a batch of one image, by the level they depend on."""
