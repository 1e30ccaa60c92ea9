"""Numbers of processes and threads of a training, and compilation, and whether its result depends on them.

With the same total batch any number of processes gives the same losses and weights up to rounding, except where
``process_dependence`` gives a reason. Any number of threads does so too, and so does compilation. Rounding errors grow
over the steps, so that accuracies differ.
"""

from __future__ import annotations

from afictl.presets import Preset
from afictl.presets.architecture import Detectron2Config, TorchvisionConfig, TransformersConfig

_LOSSES_PER_IMAGE = "retinanet_"
"""Prefix of torchvision's models that normalise the losses of each image by itself."""


def process_dependence(preset: Preset) -> str:
    """Why the training of a detector depends on the number of processes by more than rounding; empty if it does not."""
    detector = preset.detector
    adapted = TorchvisionConfig | Detectron2Config | TransformersConfig
    if isinstance(detector, adapted) and not detector.source.startswith(_LOSSES_PER_IMAGE):
        return f"{detector.kind} divides losses by counts of the images of one process"
    if preset.backbone.options.get("attn_drop_rate"):
        return "every process drops attention weights by itself (backbone.options.attn_drop_rate)"
    return ""


def process_mismatch(begun: int, present: int, dependence: str) -> tuple[str, str]:
    """Whether runs of two numbers of processes may meet: the problem, and else the note; both empty if they are equal.

    Args:
        begun: number of processes of an existing run.
        present: number of processes of this command.
        dependence: result of ``process_dependence``.
    """
    if begun == present:
        return "", ""
    numbers = f"trained by {_processes(begun)}, now {_processes(present)}"
    if dependence:
        return f"{numbers}: the results would depend on it, as {dependence}; start as many processes as before", ""
    return "", f"note: {numbers}; the results are equal up to rounding"


def thread_note(begun: int | None, present: int | None) -> str:
    """Note on a run that other numbers of threads begin and continue; empty if they are equal or one is unknown."""
    if begun == present or not begun or not present:
        return ""
    return f"note: trained with {_threads(begun)}, now {_threads(present)}; the results are equal up to rounding"


def compile_note(begun: bool, present: bool) -> str:
    """Note on a run that is begun with ``--compile`` and continued without, or the reverse; empty if both are equal."""
    if begun == present:
        return ""
    words = {True: "with --compile", False: "without --compile"}
    return f"note: trained {words[begun]}, now {words[present]}; the results are equal up to rounding"


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"
