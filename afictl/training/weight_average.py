"""Exponential moving average of the weights of a training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_weight_average(module: nn.Module, decay: float) -> AveragedModel:
    """The moving average of the parameters and buffers of ``module``, the same module with other values.

    ``update_parameters(module)`` adds the present values. The factor of the former average is ``decay``, but after n
    updates at most (1 + n) / (10 + n), as in TensorFlow's ``ExponentialMovingAverage``. Buffers are averaged too,
    as the statistics of batch norms belong to the weights that produced them.

    Args:
        module: on its device.
        decay: above 0 and below 1.
    """

    def update(
        averages: tuple[Tensor, ...] | list[Tensor], values: tuple[Tensor, ...] | list[Tensor], n: object
    ) -> None:
        count = int(n)  # type: ignore[call-overload]
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averages, values, n)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True).requires_grad_(False)
