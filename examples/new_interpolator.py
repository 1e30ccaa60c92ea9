"""A new interpolator: one class, put into a detector, then compared with nearest interpolation on generated data.

python examples/new_interpolator.py [FOLDER]
"""

import sys
from pathlib import Path

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from afictl import build_detector, load_preset
from afictl.comparison import Method, compare, comparison_notes
from afictl.data import make_shapes
from afictl.interpolators import INTERPOLATORS, Interpolator


class DepthwiseRefinement(Interpolator):
    """Bilinear enlargement plus a learned depthwise k x k convolution of it; starts as bilinear.

    Args:
        channels: C of the maps.
        kernel: k, odd.
    """

    kind = "depthwise"
    odd_options = ("kernel",)

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__(channels, kernel=kernel)
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        """Enlarge ``coarse`` (N, C, H, W) twofold; ``fine`` is unused."""
        enlarged = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return enlarged + self.conv(enlarged)


INTERPOLATORS[DepthwiseRefinement.kind] = DepthwiseRefinement

SETTINGS = (  # seconds on a CPU; leave them out for a real comparison
    *("input.min_sizes=[64]", "input.max_size=128", "input.test_size=64", "loader.workers=0"),
    *("train.steps=4", "train.batch_size=2", "train.eval_every=4"),
)


def main(folder: Path) -> None:
    """Build a detector with the new interpolator, then compare both methods."""
    preset = load_preset("faster-rcnn-r18-fpn-tiny", SETTINGS)
    detector = build_detector(preset, num_classes=4, interpolator="depthwise")
    print(f"neck with {type(detector.neck.interpolator).__name__}")

    data = make_shapes(folder / "shapes", train=4, val=2, size=96)
    methods = [Method("nearest", "nearest"), Method("depthwise", "depthwise")]
    outcome = compare(Fabric(accelerator="cpu", devices=1), preset, data, methods, folder / "comparison")
    if outcome.comparison is not None:
        print("\n".join(comparison_notes(outcome.comparison)))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "new-interpolator"))
