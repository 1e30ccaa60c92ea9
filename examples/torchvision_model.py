"""A torchvision model with another interpolator in its feature pyramid: one training step, then detection.

python examples/torchvision_model.py
"""

import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import afictl


def main() -> None:
    """Substitute the interpolator, train one step, detect."""
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3, min_size=128, max_size=128)
    count = afictl.substitute_interpolator(model, afictl.build_interpolator("carafe", channels=256))
    print(f"{count} upsampling steps replaced")

    images = [torch.rand(3, 128, 128)]
    targets = [{"boxes": torch.tensor([[20.0, 30.0, 90.0, 100.0]]), "labels": torch.tensor([1])}]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)  # after the substitution
    losses = model(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    print("losses:", ", ".join(sorted(losses)))

    with torch.no_grad():
        (detection,) = model.eval()(images)
    print("detection:", ", ".join(detection))


if __name__ == "__main__":
    main()
