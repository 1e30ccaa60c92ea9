"""A Unet of segmentation_models_pytorch with a learned interpolator in each decoder block: one training step.

python examples/segmentation_models_pytorch_model.py

Needs segmentation_models_pytorch: pip install 'afictl[segmentation-models-pytorch]'.
"""

import segmentation_models_pytorch as smp
import torch

import afictl


def main() -> None:
    """Substitute the interpolation of the deeper blocks, train one step, and put nearest interpolation back."""
    model = smp.Unet("resnet18", encoder_weights=None, classes=3)  # or yours, with its weights
    # Each block has a width of its own, for which a kind makes an interpolator. Fine maps of few channels stay.
    result = afictl.substitute_interpolator(model, "dysample", where=lambda step: step.channels >= 64)
    print(result.summary())

    images, masks = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)  # after the substitution
    loss = smp.losses.DiceLoss("multiclass")(model(images), masks)
    loss.backward()
    optimizer.step()
    print(f"loss: {loss.item():.2f}")

    result.undo()


if __name__ == "__main__":
    main()
