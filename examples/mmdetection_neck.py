"""A neck of mmdetection with a learned interpolator for each width: one training step.

python examples/mmdetection_neck.py

Needs mmdet: https://mmdetection.readthedocs.io/en/latest/get_started.html
"""

import torch
from mmdet.models.necks import CSPNeXtPAFPN

import afictl


def main() -> None:
    """Substitute the interpolation of the neck of RTMDet, train one step."""
    neck = CSPNeXtPAFPN([32, 64, 128], out_channels=32, num_csp_blocks=1)  # or ``model.neck`` of a detector
    maps = tuple(torch.rand(1, width, 64 >> i, 96 >> i) for i, width in enumerate((32, 64, 128)))
    # The neck has one nn.Upsample, which runs at two widths.
    result = afictl.substitute_interpolator(neck, "dysample", probe=(maps,))
    print(result.summary())

    optimizer = torch.optim.AdamW(neck.parameters(), lr=1e-4)  # after the substitution
    loss = sum(level.square().mean() for level in neck(maps))
    loss.backward()
    optimizer.step()
    print(f"loss: {loss.item():.2f}")


if __name__ == "__main__":
    main()
