"""Flags shared by several commands, with one meaning everywhere."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli.outputs import parse_output_folder
from afictl.errors import UserError

if TYPE_CHECKING:
    from afictl.evaluation.slicing import Slicing
    from afictl.evaluation.tta import TestTimeAugmentation

LOGGERS = ("tensorboard", "wandb", "mlflow")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "auto")


def _join_or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _parse_precision(value: str | None) -> str | None:
    if value is not None and value not in PRECISIONS:
        raise typer.BadParameter(f"{value} is not {_join_or(PRECISIONS)}")
    return value


def _parse_loggers(values: list[str] | None) -> list[str]:
    for value in values or ():
        if value not in LOGGERS:
            raise typer.BadParameter(f"{value:.40} is not {_join_or(LOGGERS)}")
    return values or [LOGGERS[0]]


def _parse_devices(value: str) -> str:
    indices = r"\d{1,5}(,\d{1,5})+"  # of GPUs, as in Fabric
    if not re.fullmatch(rf"auto|0{{0,4}}[1-9]\d{{0,4}}|{indices}", value):
        raise typer.BadParameter(f"{value[:40]} is neither a number of 1 to 99999 nor 'auto'")
    return value


def require_finite(value: float | None) -> float | None:
    """Callback of every float option: typer's ranges accept NaN and infinity."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def refuse_flags(context: typer.Context, reason: str, *flags: str) -> None:
    """Refuse ``flags``, which have no effect for ``reason``, such as ``with --tta``.

    Raises:
        UserError: one of them is on the command line, even with its default value.
    """
    names = {flag: parameter.name for parameter in context.command.params for flag in parameter.opts}
    sources = {flag: context.get_parameter_source(str(names[flag])) for flag in flags}
    unused = [flag for flag, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if unused:
        raise UserError(f"{', '.join(unused)} {'has' if len(unused) == 1 else 'have'} no effect {reason}")


PRESET = typer.Option("--preset", help="Preset name (see 'afictl model list') or YAML file.")
DATA = typer.Option("--data", help="Dataset: folder of COCO, Roboflow, YOLO or Pascal VOC, or YAML file.")
InitialDetector = Annotated[
    Path | None,
    typer.Option("--weights", help="Detector to start from: run folder or checkpoint, also of detectron2 or AFI-GAN."),
]
Partial = Annotated[
    bool, typer.Option("--partial", help="Load the tensors of --weights that fit; all others keep their random values.")
]
Averaged = Annotated[
    bool | None,
    typer.Option(
        "--ema/--no-ema",
        help="Take the averaged weights of a checkpoint that has both, or the trained ones. Default: as the library"
        " that wrote the file.",
    ),
]
BackboneWeights = Annotated[
    Path | None,
    typer.Option("--backbone-weights", help="Backbone file to load instead of the ImageNet weights of timm."),
]
COUNT_MAX = 2**31 - 1
"""Largest number of images, classes or machines that a flag takes."""
Limit = Annotated[int | None, typer.Option("--limit", min=1, max=COUNT_MAX, help="Use only the first images.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, max=COUNT_MAX, help="Images, or tiles of --slice, per forward pass.")
]
Output = Annotated[Path | None, typer.Option("--output", callback=parse_output_folder, help="Folder to write to.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a preset key, e.g. train.lr=0.01. Repeatable."),
]
ScaleRate = Annotated[
    bool,
    typer.Option(
        "--scale-lr",
        help="Learning rate in proportion to the total batch: that of the preset, times train.batch_size over the"
        " preset's.",
    ),
]
Devices = Annotated[
    str,
    typer.Option(
        "--devices",
        callback=_parse_devices,
        help="Number of devices per machine, or 'auto' for all.",
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option("--nodes", min=1, max=COUNT_MAX, help="Number of machines. Default: 1, or those of the launcher."),
]
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        callback=_parse_loggers,
        help=f"What the metrics are logged to: {_join_or(LOGGERS)}. Repeatable. Default: {LOGGERS[0]}.",
    ),
]
_PRECISION_HELP = (
    f"Number format: {_join_or(PRECISIONS)}, which is bf16-mixed if a measurement finds it faster on this machine, else"
    " 32-true."
)
Precision = Annotated[
    str,
    typer.Option("--precision", callback=_parse_precision, help=_PRECISION_HELP),
]
PrecisionOfComparison = Annotated[
    str | None,
    typer.Option(
        "--precision",
        callback=_parse_precision,
        help=f"{_PRECISION_HELP} Default: 32-true, with --only-cost auto.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile backbone, neck, interpolator and discriminator by torch.compile: those that a measurement finds"
        " faster with it. Takes minutes at the start.",
    ),
]
SEED_MAX = 2**32 - 1
"""Largest random seed that every generator takes."""
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=SEED_MAX, help="Random seed of weights, data order and augmentation.")
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the run in --output from its saved state; without one start a new run. May be written --resume"
        " auto.",
    ),
]
ForceUnlock = Annotated[
    bool,
    typer.Option(
        "--force-unlock",
        help="Remove locks in --output, such as of a machine that is lost. Their processes must have ended.",
    ),
]
Tta = Annotated[
    bool,
    typer.Option("--tta", help="Test-time augmentation: merge the detections of several sizes, also mirrored."),
]
TtaSizes = Annotated[
    str | None,
    typer.Option("--tta-sizes", help="Short sides for --tta in pixels, e.g. 600,800; default: 400,500,...,1200."),
]
NoTtaFlip = Annotated[bool, typer.Option("--no-tta-flip", help="Leave out the mirrored views of --tta.")]
Slice = Annotated[
    int | None,
    typer.Option(
        "--slice",
        min=32,
        max=65_536,
        metavar="SIZE",
        help="Detect in overlapping tiles of this side in pixels and in the whole image, for small objects.",
    ),
]
SliceOnly = Annotated[bool, typer.Option("--slice-only", help="Leave out the whole image of --slice.")]
Overlap = Annotated[
    float,
    typer.Option(
        "--overlap",
        min=0.0,
        max=0.9,
        callback=require_finite,
        help="Fraction of the side that neighbouring tiles share at least.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def parse_tta(tta: bool, sizes: str | None, no_flip: bool) -> TestTimeAugmentation | None:
    """Views for ``--tta``, ``--tta-sizes`` and ``--no-tta-flip``; None without ``--tta``.

    Raises:
        UserError: a size that is no integer, out of range or repeated, or another flag without ``--tta``.
    """
    if not tta:
        if sizes is not None or no_flip:
            raise UserError(f"{'--tta-sizes' if sizes is not None else '--no-tta-flip'} has no effect without --tta")
        return None
    from afictl.evaluation.tta import TestTimeAugmentation

    if sizes is None:
        return TestTimeAugmentation(flip=not no_flip)
    try:
        sides = tuple(int(side) for side in sizes.split(","))
    except ValueError:
        raise UserError(f"--tta-sizes {sizes}: expected integers separated by commas, e.g. 600,800") from None
    if len(set(sides)) < len(sides):
        raise UserError(f"--tta-sizes {sizes}: a size is given twice")
    return TestTimeAugmentation(sides, flip=not no_flip)


def parse_slice(
    context: typer.Context, size: int | None, overlap: float, only: bool, batch_size: int = 1
) -> Slicing | None:
    """Tiles for ``--slice``, ``--overlap`` and ``--slice-only``; None without ``--slice``.

    Raises:
        UserError: another flag without ``--slice``, or ``--tta`` with it.
    """
    if size is None:
        refuse_flags(context, "without --slice", "--overlap", "--slice-only")
        return None
    if context.params.get("tta"):
        raise UserError("--slice and --tta exclude each other: choose one")
    from afictl.data.tiles import Tiling
    from afictl.evaluation.slicing import Slicing

    return Slicing(Tiling(size, overlap), whole_image=not only, batch_size=batch_size)
