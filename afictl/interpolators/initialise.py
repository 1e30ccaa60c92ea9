"""What learned interpolators have in common when they start."""

from torch import nn


def zero_biases(module: nn.Module) -> None:
    """Set every bias in ``module`` to zero."""
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(value)
