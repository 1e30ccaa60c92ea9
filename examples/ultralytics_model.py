"""A YOLO of ultralytics with a learned interpolator in the place of each nn.Upsample.

python examples/ultralytics_model.py

Needs ultralytics, whose licence is AGPL-3.0 or a commercial one. ``InterpolatedTrainer`` is for its own training:
``YOLO("yolo11n.pt").train(trainer=InterpolatedTrainer, data=..., epochs=...)``.
"""

import torch
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

import afictl


class InterpolatedTrainer(DetectionTrainer):
    """A trainer whose models have interpolators: it builds them anew from their YAML files."""

    def get_model(self, cfg=None, weights=None, verbose=True):
        """The model of ``DetectionTrainer`` with DySample."""
        model = super().get_model(cfg, weights, verbose)
        afictl.substitute_interpolator(model, "dysample")
        return model


def main() -> None:
    """Substitute the interpolation of a model with random weights and run it."""
    model = DetectionModel("yolo11n.yaml", verbose=False)
    result = afictl.substitute_interpolator(model, "dysample")
    print(result.summary())
    for step in result.replaced:
        layer = model.get_submodule(step.path)
        print(f"layer {layer.i} from {layer.f}: {layer.type}")
    with torch.no_grad():
        print("predictions:", tuple(model.eval()(torch.rand(1, 3, 64, 96))[0].shape))


if __name__ == "__main__":
    main()
