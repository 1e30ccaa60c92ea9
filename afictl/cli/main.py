"""The ``afictl`` program: its subcommands, and errors as one line."""

from typing import Any

import typer
from typer.core import TyperCommand

from afictl.cli import benchmark, data, model, visualize
from afictl.cli.compare import compare_command
from afictl.cli.convert import convert_command
from afictl.cli.demo import demo_command
from afictl.cli.doctor import doctor_command
from afictl.cli.eval import eval_command
from afictl.cli.export import export_command
from afictl.cli.failures import INTERRUPTED, report_error, report_interrupt
from afictl.cli.finetune import finetune_command
from afictl.cli.predict import predict_command
from afictl.cli.pretrain import pretrain_command
from afictl.cli.pseudo_label import pseudo_label_command
from afictl.launchers import require_single_process
from afictl.progress import replace_unencodable_output

app = typer.Typer(
    name="afictl",
    help="Learned feature upsampling for object detectors: training, fine-tuning, evaluation and fair comparison.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich markup doubles the time of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_PARALLEL_COMMANDS = ("pretrain", "finetune", "eval", "predict", "compare")
"""Commands that use several processes; any other is refused under a launcher that starts several."""


def _show_version(value: bool) -> None:
    if value:
        from afictl import __version__

        typer.echo(f"afictl {__version__}")
        raise typer.Exit


class _ResumableCommand(TyperCommand):
    """Command whose flag ``--resume`` may be written ``--resume auto``, as in other programs, with the same effect."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = [
            word for former, word in zip(["", *args], args, strict=False) if (former, word) != ("--resume", "auto")
        ]
        return super().parse_args(ctx, words)


@app.callback()
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    if context.invoked_subcommand not in _PARALLEL_COMMANDS and not require_single_process():
        raise typer.Exit


app.command("demo")(demo_command)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.command("pretrain", cls=_ResumableCommand)(pretrain_command)
app.command("finetune", cls=_ResumableCommand)(finetune_command)
app.command("eval")(eval_command)
app.command("predict")(predict_command)
app.command("pseudo-label")(pseudo_label_command)
app.command("compare")(compare_command)
app.command("convert")(convert_command)
app.command("export")(export_command)
app.command("doctor")(doctor_command)
app.add_typer(visualize.app, name="visualize")
app.add_typer(benchmark.app, name="benchmark")


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 success; 1 failed runs of ``compare``, faults that ``data check`` or ``doctor`` report, files that
    ``predict`` skips, or an unexpected error; 2 a mistake in the command or its files; 130 Ctrl-C. Every error is one
    line on stderr.
    """
    replace_unencodable_output()
    try:
        code = app(prog_name="afictl", standalone_mode=False) or 0
    except (Exception, KeyboardInterrupt) as error:
        code = report_error(error)
    else:
        if code == INTERRUPTED:  # typer catches Ctrl-C itself
            report_interrupt()
    raise SystemExit(code)
