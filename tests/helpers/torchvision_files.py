"""Checkpoint files of torchvision, today's and older ones."""

import re

import torch
from torchvision.models import detection

COCO = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
_OLD = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1."),
    (r"(rpn\.head\.conv)\.0\.0\.", r"\1."),
    (r"(head\.\w+_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}."),
    (r"(roi_heads\.mask_head)\.(\d)\.0\.", lambda m: f"{m[1]}.mask_fcn{int(m[2]) + 1}."),
)


def build_torchvision(name, num_classes, **settings):
    """torchvision's model; ``num_classes`` counts its index 0."""
    torch.manual_seed(0)
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes, **settings).eval()


def save_torchvision(path, name, num_classes, **settings):
    """Write the state dict of that model and return the model."""
    model = build_torchvision(name, num_classes, **settings)
    torch.save(model.state_dict(), path)
    return model


def old_names(tensors):
    """The names before torchvision 0.13, which the first released weights have."""
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in _OLD:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
