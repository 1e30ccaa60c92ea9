"""The ``afictl`` program: puts the subcommands together and turns errors into one line."""

import sys

import typer

from afictl.cli import data, model, visualize
from afictl.cli.compare import compare
from afictl.cli.demo import demo
from afictl.cli.eval import evaluate
from afictl.cli.finetune import finetune
from afictl.cli.pretrain import pretrain
from afictl.errors import UserError

app = typer.Typer(
    name="afictl",
    help="Better feature upsampling for object detectors: train it, put it in, compare it fairly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from afictl import __version__

        typer.echo(f"afictl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    pass


app.command()(demo)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.command()(pretrain)
app.command()(finetune)
app.command("eval")(evaluate)
app.command()(compare)
app.add_typer(visualize.app, name="visualize")


def main() -> None:
    """Run the program; a ``UserError`` ends it with one line on stderr and exit code 2."""
    try:
        app()
    except UserError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
