"""R-CNNs with reference numbers, and detectors with the same weights."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from afictl.detectors import Detector, build_detector
from afictl.presets import load_preset
from afictl.weights.layouts.detectron2_names import detector_key
from tests.helpers.golden_files import H_FULL, apply_rule_h, golden_image

# detectron2's MSRA weights: BGR 0..255, mean subtracted, stride in the bottlenecks' first convolution.
MSRA = (
    "backbone.stride_in_1x1=true",
    f"input.mean={[value / 255 for value in (123.675, 116.28, 103.53)]}",
    f"input.std={[1 / 255] * 3}",
)
NEAREST = "interpolator.kind=nearest"


@dataclass(frozen=True)
class Reference:
    """A detector that the reference numbers were computed with."""

    file: str
    """In ``golden/``."""
    prefix: str
    """Of its tensors there."""
    keys: str
    """Its list in ``golden/keys``."""
    preset: str
    overrides: tuple[str, ...]
    image_hw: tuple[int, int]
    parameters: int
    is_resnet: bool = True
    """Its images are BGR; a Swin Transformer's are RGB."""

    def build(self) -> Detector:
        """The detector with the reference's weights, in eval mode."""
        model = build_detector(load_preset(self.preset, self.overrides)).eval()
        apply_rule_h(model, partial(detector_key, preset=model.preset), self.keys, H_FULL)
        if self.is_resnet:
            stem = model.state_dict()["backbone.net.conv1.weight"]
            stem.copy_(stem.flip(1))
        for name, layer in model.named_modules():
            if name.endswith("cls_score"):
                background_first(layer)
        return model

    def image(self) -> Tensor:
        """The reference image, RGB in 0..1."""
        image = golden_image(*self.image_hw).float() / 255
        return image.flip(0) if self.is_resnet else image


def background_first(layer: nn.Module) -> None:
    """Move the background's class scores from the last row, as in detectron2, to the first."""
    for rows in layer.state_dict().values():
        rows.copy_(rows.roll(1, 0))


REFERENCES = [
    Reference(
        file="mask_rcnn_r50_fpn",
        prefix="H.mask_fpn_d2.",
        keys="d2_mask_rcnn_R50_FPN_3x",
        preset="mask-rcnn-r50-fpn",
        overrides=(*MSRA, NEAREST),
        image_hw=(160, 192),
        parameters=44_343_216,
    ),
    Reference(
        file="faster_rcnn_r50_fpn",
        prefix="H.faster_rcnn.",
        keys="d2_faster_rcnn_R50_FPN_3x",
        preset="faster-rcnn-r50-fpn",
        overrides=(*MSRA, NEAREST),
        image_hw=(64, 96),
        parameters=41_699_936,
    ),
    Reference(
        file="cascade_mask_rcnn_r50_fpn",
        prefix="H.cascade_mask_rcnn.",
        keys="d2_cascade_mask_rcnn_R50_FPN_3x",
        preset="cascade-rcnn-r50-fpn",
        overrides=(*MSRA, NEAREST),
        image_hw=(64, 96),
        parameters=71_984_926,
    ),
    Reference(
        file="mask_rcnn_r50_pafpn_afi",
        prefix="H.mask_pafpn_afi.",
        keys="afi_maskrcnn_R50_PAFPN",
        preset="mask-rcnn-r50-pafpn",
        overrides=MSRA,
        image_hw=(160, 192),
        parameters=53_948_080,
    ),
    Reference(
        file="cascade_swin_tiny_bifpn",
        prefix="H.cascade_swin_tiny_bifpn_afi.",
        keys="afi_cascade_SwinTinyFixture_BiFPN",
        preset="cascade-rcnn-swin-t-bifpn",
        overrides=(
            "backbone.options={embed_dim: 32, depths: [2, 2, 2, 2], num_heads: [1, 2, 4, 8], window_size: 4}",
            "neck.repeats=7",
        ),
        image_hw=(120, 128),
        parameters=60_716_785,
        is_resnet=False,
    ),
]
