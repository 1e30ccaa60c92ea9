"""Parts of transformers' models with a hybrid encoder (RT-DETR, RT-DETRv2, D-FINE), as ``Detector`` calls them.

The model's own modules, loss function and postprocessing compute: the numbers are transformers' for the same pixels.
Left out is its image processor, whose resizing and normalisation are keys of the preset.

Legend: N images, H x W the batch, Q queries, K classes; the model counts them from 0 to K - 1, here labels are 1..K.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou
from transformers import RTDetrImageProcessor
from transformers.modeling_outputs import BaseModelOutput

from afictl.detectors.head import Detections, FeatureMaps, HeadPart, ImageBatch, Losses, Target
from afictl.detectors.views import BackboneView, NeckView, full_precision
from afictl.errors import UserError
from afictl.interpolators import Interpolator

_LAYER = re.compile(r"_(aux|dn)_\d+$")
"""End of the name of a loss of one decoder layer, of its own queries or of those with noise."""
_NO_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"
"""Variable of the environment that disables checks of transformers if it is 1; 0 is its default."""
_LEAST_IOU = 0.5
"""Of a query that detects a given box."""


class ConvEncoderView(BackboneView):
    """The convolutional network of a model.

    Args:
        name: type of its configuration.
        net: transformers' network.
        channels: of each of its maps.
        strides: of these.
    """

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Normalised images (N, 3, H, W) -> the maps that the encoder reads."""
        valid = torch.ones(images.shape[0], *images.shape[2:], device=images.device)
        return {level: maps for level, (maps, _) in zip(self.channels, self.net(images, valid), strict=True)}

    def convert_classifier(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Not possible: timm's networks differ from transformers'."""
        raise UserError(f"timm's weights do not fit the {self.name} of transformers; start from --weights")


class HybridEncoderView(NeckView):
    """The hybrid encoder of a model with the projections before it.

    Args:
        projections: to the width of the encoder.
        encoder: with an interpolator at all its steps.
        strides: of its maps.
        num_upsamplers: number of these steps.
    """

    def __init__(
        self,
        projections: nn.ModuleList,
        encoder: nn.Module,
        channels: int,
        strides: dict[str, int],
        num_upsamplers: int,
    ) -> None:
        super().__init__(encoder, channels, strides, num_upsamplers, max(strides.values()))
        self._projections = projections

    @property
    def interpolator(self) -> Interpolator:
        """The present interpolator, which all steps share."""
        interpolators = cast(nn.ModuleDict, self._pyramid.get_submodule("interpolators"))
        return cast(Interpolator, next(iter(interpolators.values())))

    def __call__(self, features: Mapping[str, Tensor]) -> FeatureMaps:
        """``res*`` -> ``p*``."""
        maps = [projection(value) for projection, value in zip(self._projections, features.values(), strict=True)]
        return dict(zip(self.strides, self._pyramid(maps).last_hidden_state, strict=True))

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of projections and encoder, those of the interpolator among them."""
        yield from self._projections.parameters()
        yield from self._pyramid.parameters()


class QueryHead:
    """Selection of queries, decoder, loss function and postprocessing of a model.

    Args:
        model: the model.
        score_threshold: a detection's score is larger.
        max_detections: at most the number of queries.
    """

    class_layers: tuple[str, ...] = (
        *("model.enc_score_head.", "model.denoising_class_embed.", "model.decoder.class_embed."),
        "class_embed.",
    )

    def __init__(self, model: nn.Module, score_threshold: float, max_detections: int) -> None:
        self._model = model
        self._score_threshold = score_threshold
        self._max_detections = max_detections
        self._processor: Any = RTDetrImageProcessor()

    def losses(self, batch: ImageBatch, features: FeatureMaps, targets: Sequence[Target]) -> Losses:
        """The model's losses, each summed over the layers of the decoder and the kinds of queries."""
        height, width = batch.tensor.shape[-2:]
        labels = [
            {
                "class_labels": target["labels"] - 1,
                "boxes": box_convert(target["boxes"], "xyxy", "cxcywh")
                / target["boxes"].new_tensor([width, height, width, height]),
            }
            for target in targets
        ]
        sums: defaultdict[str, Any] = defaultdict(float)
        with full_precision(features) as maps:
            for name, loss in self._outputs(maps, labels).loss_dict.items():
                sums[_LAYER.sub("", name)] += loss
        return dict(sums)

    def detect(self, batch: ImageBatch, features: FeatureMaps) -> list[Detections]:
        """Detections as of the model's image processor; boxes may exceed the image."""
        with full_precision(features) as maps:
            outputs = self._outputs(maps)
            sizes = torch.tensor([batch.tensor.shape[-2:]] * len(batch.sizes))
            results = self._processor.post_process_object_detection(outputs, self._score_threshold, sizes)
        count = self._max_detections
        return [
            {"boxes": r["boxes"][:count], "labels": r["labels"][:count] + 1, "scores": r["scores"][:count]}
            for r in results
        ]

    def box_class_logits(self, batch: ImageBatch, features: FeatureMaps, box: Tensor, label: int) -> dict[str, Tensor]:
        """The logits of class ``label`` of the queries that detect ``box`` (4,), else of the nearest; all levels count.

        A query detects a box if their IoU is at least 0.5.
        """
        height, width = batch.tensor.shape[-2:]
        outputs = self._outputs(features)
        boxes = box_convert(outputs.pred_boxes[0].detach(), "cxcywh", "xyxy")
        overlaps = box_iou(boxes * boxes.new_tensor([width, height, width, height]), box[None])[:, 0]
        detects = overlaps >= min(_LEAST_IOU, float(overlaps.max()))
        return dict.fromkeys(features, outputs.logits[0, detects, label - 1])

    def parts(self, features: FeatureMaps) -> list[HeadPart]:
        """Everything behind the encoder, for all queries."""
        model = self._model.get_submodule("model")
        before = ("backbone", "encoder_input_proj", "encoder", "denoising_class_embed")
        modules = tuple(module for name, module in model.named_children() if name not in before)
        queries = cast(Any, self._model).config.num_queries

        def run() -> None:
            # Tensors of the meta device have no values.
            with _without_checks() if next(iter(features.values())).is_meta else nullcontext():
                self._outputs(features)

        return [HeadPart("decoder", f"{queries} queries", run, modules)]

    def _outputs(self, maps: FeatureMaps, labels: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Outputs of the model from the maps of its encoder."""
        values = list(maps.values())
        require_positions(sum(value.shape[2] * value.shape[3] for value in values), cast(Any, self._model).config)
        # With inputs_embeds, of which it then reads device and batch size alone, the model leaves its backbone out.
        encoded = BaseModelOutput(last_hidden_state=cast(Any, values))
        return self._model(None, encoder_outputs=encoded, inputs_embeds=values[0], labels=labels)


def require_positions(positions: int, config: Any) -> None:
    """Check that there are as many positions, of the maps of one image, as queries, which are selected among them.

    Raises:
        UserError: there are fewer.
    """
    if positions < config.num_queries:
        raise UserError(
            f"num_queries: the model selects {config.num_queries} queries among the positions of its maps, and a small "
            f"image has {positions}; enlarge input.min_sizes and input.test_size, or configure fewer queries"
        )


@contextmanager
def _without_checks() -> Iterator[None]:
    """Without transformers' checks of sizes, which read the values of tensors."""
    before = os.environ.get(_NO_CHECKS, "0")
    os.environ[_NO_CHECKS] = "1"
    try:
        yield
    finally:
        os.environ[_NO_CHECKS] = before
