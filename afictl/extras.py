"""Optional packages: the extra of afictl that installs each, and the error where one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from afictl.errors import UserError

EXTRAS = {
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "video": ("av",),
    "ray": ("ray",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "transformers": ("transformers", "scipy"),
    "segmentation-models-pytorch": ("segmentation_models_pytorch",),
}
"""Extra of afictl -> names under which its packages are imported."""


def install_command(extra: str) -> str:
    """The command that installs an extra of afictl."""
    return f"pip install 'afictl[{extra}]'"


def import_optional(package: str, purpose: str) -> ModuleType:
    """Import a package of ``EXTRAS``.

    Args:
        package: name under which it is imported.
        purpose: subject of the error, such as ``--format onnx``.

    Raises:
        UserError: it is not installed; the error names the extra.
    """
    extra = next(extra for extra, packages in EXTRAS.items() if package in packages)
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(f"{purpose} needs the optional package {package}: {install_command(extra)}") from None
