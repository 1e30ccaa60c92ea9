import pytest
import torch

from tests.helpers.slow_cases import others_slow
from tests.helpers.substitution_checks import CHECKS, Case

smp = pytest.importorskip("segmentation_models_pytorch")

IMAGES = (torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0)),)


def model(architecture, **options):
    return lambda: smp.create_model(architecture, "resnet18", encoder_weights=None, classes=3, **options)


NARROW = {"decoder_channels": (32, 16, 16, 8, 8)}
FPN_SEGMENTATION = ["0.block.0", "0.block.1", "0.block.2", "1.block.0", "1.block.1", "2.block.0"]
CASES = {
    "FPN": Case(
        model("fpn", decoder_pyramid_channels=32, decoder_segmentation_channels=32),
        IMAGES,
        [(f"decoder.p{i}", 32) for i in (4, 3, 2)] + [(f"decoder.seg_blocks.{name}", 32) for name in FPN_SEGMENTATION],
        ("segmentation_head.1",),
    ),
    "Unet": Case(
        model("unet", **NARROW), IMAGES, [(f"decoder.blocks.{i}", w) for i, w in enumerate((512, 32, 16, 16, 8))]
    ),
    "UPerNet": Case(
        model("upernet", decoder_channels=16),
        IMAGES,
        [(f"decoder.fpn_lateral_blocks.{i}", 16) for i in range(3)] + [("decoder", 16)],
        # Pooled maps of 1x1 and 2x2 (larger ones shrink to 2x4), two levels to the finest, logits to the image.
        ("decoder.psp",) * 2 + ("decoder",) * 2 + ("segmentation_head.1",),
    ),
    "MAnet": Case(
        model("manet", **NARROW), IMAGES, [(f"decoder.blocks.{i}", w) for i, w in enumerate((256, 128, 64, 64, 8))]
    ),
    "UnetPlusPlus": Case(
        model("unetplusplus", **NARROW),
        IMAGES,
        [
            *(("decoder.blocks.x_0_0", 512), ("decoder.blocks.x_1_1", 256), ("decoder.blocks.x_2_2", 128)),
            *(("decoder.blocks.x_3_3", 64), ("decoder.blocks.x_0_1", 32), ("decoder.blocks.x_1_2", 128)),
            *(("decoder.blocks.x_2_3", 64), ("decoder.blocks.x_0_2", 16), ("decoder.blocks.x_1_3", 64)),
            *(("decoder.blocks.x_0_3", 16), ("decoder.blocks.x_0_4", 8)),
        ],
    ),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", others_slow(CASES, ("FPN", "Unet", "UPerNet")))
def test_model_with_interpolators(case, check):
    CHECKS[check](CASES[case])
