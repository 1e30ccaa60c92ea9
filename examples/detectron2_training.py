"""A detectron2 training script with an interpolator of afictl in its feature pyramid.

python examples/detectron2_training.py

Needs detectron2: https://detectron2.readthedocs.io/en/latest/tutorials/install.html
"""

import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from afictl.integrations.detectron2 import add_afictl_config


def main() -> None:
    """Build Faster R-CNN around CARAFE and train two steps on a random image."""
    cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", trained=False)
    add_afictl_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_afictl_resnet_fpn_backbone"
    cfg.MODEL.AFICTL.INTERPOLATOR = "carafe"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR = 1e-6  # the weights here are random; from a checkpoint, keep the default
    model = build_model(cfg).train()
    print(f"backbone with {type(model.backbone.interpolator).__name__}")

    instances = Instances((96, 96))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 20.0, 70.0, 80.0]]))
    instances.gt_classes = torch.tensor([0])
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        for step in range(2):
            losses = model([{"image": torch.randint(0, 256, (3, 96, 96)).float(), "instances": instances}])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            print(f"step {step + 1}: {', '.join(sorted(losses))}")


if __name__ == "__main__":
    main()
