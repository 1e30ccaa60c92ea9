"""The three stages of AFI-GAN training and what they share.

``stage1`` trains the interpolator against the discriminator on a guide's features, ``stage2`` trains it inside a
detector on half-size images, ``stage3`` trains any detector that holds it. Each passes a ``Stage`` to the one ``loop``.
"""

from afictl.training.hardware import HardwareSettings, launch, launch_single
from afictl.training.initial_weights import InitialWeights
from afictl.training.pretraining import pretrain
from afictl.training.pseudo import PseudoLabels
from afictl.training.stage3 import finetune

__all__ = ["HardwareSettings", "InitialWeights", "PseudoLabels", "finetune", "launch", "launch_single", "pretrain"]
