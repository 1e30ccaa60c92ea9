"""The one step that all necks share: bring a coarse map to the size of the next finer one."""

from torch import Tensor

from afictl.interpolators import Interpolator


def enlarge_to(interpolator: Interpolator, coarse: Tensor, fine: Tensor) -> Tensor:
    """Enlarge ``coarse`` (N, C, h, w) to the height and width of ``fine`` (N, C, H, W).

    Strided convolutions round up, so an odd H has h = (H + 1) / 2: the enlarged map is one row too tall and
    loses its last row. With the nearest interpolator this equals ``F.interpolate(coarse, size=(H, W))``.
    """
    height, width = fine.shape[-2:]
    return interpolator(coarse, fine)[..., :height, :width]
