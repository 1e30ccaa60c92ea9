"""detectron2's names for the tensors of a ResNet."""

import re


def resnet_key(name: str) -> str:
    """timm's name of a tensor of a ResNet (inner norms of a ResNeSt keep theirs) -> detectron2's."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"(?<!conv2\.)bn(\d)\.", r"conv\1.norm.", name)
