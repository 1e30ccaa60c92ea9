"""``afictl model``: the presets, and parts and cost of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from afictl.cli import options
from afictl.cli.tables import wide_console
from afictl.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from afictl.detectors import Detector, PartCost
    from afictl.presets import Scores

_MIN_WIDE_COLUMNS = 105
"""Terminal width that fits all columns."""
_LONGEST_SIDE = 65_536

app = typer.Typer(help="List presets, or show parts and cost of one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_models(debug: options.Debug = False) -> None:
    """List all presets: detector, backbone, neck, and the AP that the AFI-GAN paper reports."""
    from rich.table import Table

    from afictl.presets import list_presets, list_torchvision_presets, load_preset

    console = wide_console()
    presets = [load_preset(name) for name in (*list_presets(), *list_torchvision_presets())]
    narrow = console.width < _MIN_WIDE_COLUMNS
    parts = () if narrow else ("detector", "backbone", "neck")
    table = Table("preset", *parts, "nearest", "AFI", box=None)
    for column in table.columns:
        column.no_wrap = True
    for preset in presets:
        kinds = (preset.detector.kind, preset.backbone.name.split(".")[0], preset.neck.kind)
        scores = (_format_scores(preset.published.nearest), _format_scores(preset.published.afi))
        table.add_row(preset.name, *(() if narrow else kinds), *scores)
    console.print(table)
    console.print("\nnearest, AFI: box / mask AP on COCO test-dev that the AFI-GAN paper reports; not reproduced.")
    for preset in presets:
        if preset.published.note:
            console.print(f"{preset.name}: {preset.published.note}.", highlight=False)
    console.print(
        "The default interpolator is afi; for torchvision's models, detectron2:CONFIG (with FPN) and"
        " transformers:CONFIG it is nearest.",
        highlight=False,
    )


def _format_scores(scores: Scores) -> str:
    return " / ".join(str(value) for value in (scores.box, scores.mask) if value is not None) or "-"


@app.command("show")
def show_model(
    context: typer.Context,
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET",
            help="Preset name (see 'afictl model list'), YAML file, detectron2:CONFIG or transformers:CONFIG.",
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="WxH", help="Image width and height in pixels. Default: the largest of the preset."
        ),
    ] = None,
    interpolator: Annotated[
        str | None, typer.Option("--interpolator", help="Interpolator kind instead of the preset's.")
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", min=1, max=options.COUNT_MAX, help="Number of classes, without background.")
    ] = 80,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print only all keys of the preset, as a YAML file that --preset takes.")
    ] = False,
    overrides: options.Overrides = None,
    debug: options.Debug = False,
) -> None:
    """Show strides, channels, parameters and multiply-adds of the parts of a preset."""
    from afictl.cli.interpolator_options import load_preset_for
    from afictl.interpolators import check_options

    if resolved:
        options.refuse_flags(context, "with --resolved: a preset has no such key", "--size", "--classes")
    kind = interpolator.removeprefix("kind:") if interpolator else None
    if kind:
        check_options(kind, {})
    loaded = load_preset_for(preset, overrides or (), f"kind:{kind}" if kind else None)
    image_hw = _parse_size(size) if size else loaded.input.largest_hw

    import torch

    from afictl.detectors import build_detector, model_cost, step_costs
    from afictl.yaml_files import dump_yaml

    with torch.device("meta"):  # no memory for weights
        detector = build_detector(loaded, classes)
    if resolved:
        typer.echo(dump_yaml(detector.preset.model_dump(mode="json")), nl=False)
        return
    costs = model_cost(detector, image_hw)
    console = wide_console()
    changes = ", ".join(overrides or ())
    console.print(f"{loaded.name}{f' with {changes}' if changes else ''}: {loaded.description}", highlight=False)
    console.print(_cost_table(detector, costs, image_hw, narrow=console.width < _MIN_WIDE_COLUMNS))
    console.print(_share_line(detector, costs), highlight=False)
    for step in step_costs(detector, image_hw):
        line = (
            f"{step.name}, {step.workload}: {step.parameters:,} parameters, {_giga(step.multiply_adds)} multiply-adds"
        )
        console.print(line, highlight=False)
    console.print(_trained_line(detector), highlight=False)


def _cost_table(detector: Detector, costs: list[PartCost], image_hw: tuple[int, int], narrow: bool) -> Table:
    from rich.table import Table

    descriptions = _descriptions(detector)
    divisor = detector.neck.size_divisor
    height, width = (-(-side // divisor) * divisor for side in image_hw)
    multiply_adds_heading = f"multiply-adds at {image_hw[1]}x{image_hw[0]}"
    is_padded = (height, width) != image_hw
    caption = f"padded to {width}x{height} (width x height)" if is_padded else "sizes are width x height"
    table = Table("part", *(() if narrow else ("type", "strides", "channels")), box=None, caption=caption)
    for title in ("parameters", multiply_adds_heading, "share"):
        table.add_column(title, justify="right", no_wrap=True)
    total = sum(cost.multiply_adds for cost in costs)
    for cost in costs:
        share = f"{cost.multiply_adds / total:.1%}"
        texts = descriptions.get(cost.name, (cost.workload, "", str(detector.neck.channels)))
        numbers = (f"{cost.parameters:,}", _giga(cost.multiply_adds), share)
        table.add_row(cost.name, *(() if narrow else texts), *numbers)
    parameters = sum(cost.parameters for cost in costs)
    table.add_row("total", *(() if narrow else ("", "", "")), f"{parameters:,}", _giga(total), "100.0%", style="bold")
    return table


def _descriptions(detector: Detector) -> dict[str, tuple[str, str, str]]:
    """Type, strides and channels of backbone, neck and interpolator."""
    preset, backbone, neck = detector.preset, detector.backbone, detector.neck
    strides, width = _join(neck.strides.values()), str(neck.channels)
    kind = preset.interpolator.kind
    if preset.neck.interpolators == "per-step":
        kind = f"{kind} ({neck.num_upsamplers} modules)"
    return {
        "backbone": (preset.backbone.name, _join(backbone.strides.values()), _join(backbone.channels.values())),
        "neck": (preset.neck.kind, strides, width),
        "interpolator": (kind, "", width),
    }


def _share_line(detector: Detector, costs: list[PartCost]) -> str:
    part = next(cost for cost in costs if cost.name == "interpolator")
    parameters = part.parameters / sum(cost.parameters for cost in costs)
    multiply_adds = part.multiply_adds / sum(cost.multiply_adds for cost in costs)
    kind = detector.preset.interpolator.kind
    return f"interpolator '{kind}': {parameters:.1%} of the parameters, {multiply_adds:.1%} of the multiply-adds"


def _trained_line(detector: Detector) -> str:
    """Numbers of trained and frozen parameters; published tables often count the trained ones alone."""
    trained = sum(value.numel() for value in detector.parameters() if value.requires_grad)
    frozen = sum(value.numel() for value in detector.parameters()) - trained
    return f"{trained:,} parameters are trained, {frozen:,} are frozen"


def _join(values: Iterable[int]) -> str:
    return " ".join(str(value) for value in values)


def _giga(number: int) -> str:
    return f"{number / 1e9:.2f} G"


def _parse_size(text: str) -> tuple[int, int]:
    """Parse ``WIDTHxHEIGHT`` to (height, width)."""
    width, separator, height = text.lower().partition("x")
    sides = [int(side) if side.isdecimal() and len(side) < 6 else 0 for side in (height, width)]
    if not separator or not all(0 < side <= _LONGEST_SIDE for side in sides):
        raise UserError(f"--size {text[:40]}: write WIDTHxHEIGHT in pixels up to {_LONGEST_SIDE}, such as 1333x800")
    return sides[0], sides[1]
