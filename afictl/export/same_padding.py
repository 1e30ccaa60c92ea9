"""TensorFlow's padding ``same`` of timm's layers as constants, for graphs with symbolic sizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import padding


@contextmanager
def constant_same_padding() -> Iterator[None]:
    """Within it, padding ``same`` of timm is that of maps whose height and width are multiples of the layer's stride.

    timm computes this padding from the size of each map. With symbolic sizes that is an expression in which those of
    all earlier layers are nested, and torch.export takes minutes to hours over them. Maps of a detector are multiples:
    its images are padded to one of ``size_divisor``, which the strides of the layers divide.

    Every layer of timm with this padding, convolution or pooling, takes it from the one function that is replaced;
    ``tf_efficientnet_*``, ``tf_mixnet_*``, ``tf_mobilenetv3_*``, ``dm_nfnet_*`` and ``maxvit_*_tf_*`` have such layers.
    """
    of_any_size = padding.get_same_padding
    padding.get_same_padding = _total_padding
    try:
        yield
    finally:
        padding.get_same_padding = of_any_size


def _total_padding(x: int, kernel_size: int, stride: int, dilation: int) -> int:
    """Rows or columns to add, the larger half at the end, for every size ``x`` that ``stride`` divides."""
    del x  # the one argument that is symbolic
    return max((kernel_size - 1) * dilation + 1 - stride, 0)
