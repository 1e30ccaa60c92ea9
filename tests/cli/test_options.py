"""The shared flags, as a command receives them."""

import pytest
import typer
from typer.testing import CliRunner

from afictl.cli import options
from afictl.errors import UserError

app = typer.Typer()


@app.command()
def show(
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    output: options.Output = None,
    devices: options.Devices = "auto",
) -> None:
    """Print what came in."""
    typer.echo(f"{type(precision).__name__} {precision} {seed}")


@pytest.mark.parametrize("value", options.PRECISIONS)
def test_a_precision_is_plain_text(value):
    assert CliRunner().invoke(app, ["--precision", value]).output == f"str {value} 0\n"


@pytest.mark.parametrize("value", ["auto", "1", "16", "0,3"])
def test_devices_are_a_number_or_all_or_named(value):
    assert CliRunner().invoke(app, ["--devices", value]).exit_code == 0


_NO_DEVICES = [["--devices", value] for value in ("0", "-1", "many", "", "1,", "2 ")]


@pytest.mark.parametrize("arguments", [["--precision", "64-true"], ["--seed", "-1"], *_NO_DEVICES])
def test_values_out_of_range_are_refused(arguments):
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_an_output_that_is_a_file_is_refused(tmp_path):
    assert CliRunner().invoke(app, ["--output", str(tmp_path)]).exit_code == 0
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["--output", str(tmp_path / "file")])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == f"{tmp_path / 'file'} is a file; --output is a folder"


def test_views_of_multi_scale_testing():
    from afictl.evaluation.tta import TestTimeAugmentation as Recipe

    assert options.multi_scale(False, None, False) is None
    assert options.multi_scale(True, None, False) == Recipe()
    assert Recipe() == Recipe((400, 500, 600, 700, 800, 900, 1000, 1100, 1200), 4000, flip=True)
    assert options.multi_scale(True, "600, 800", True) == Recipe((600, 800), flip=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((False, "600", False), "--tta-sizes has no effect without --tta"),
        ((False, None, True), "--no-tta-flip has no effect without --tta"),
        ((True, "big", False), "--tta-sizes big: expected whole numbers between commas, e.g. 600,800"),
        ((True, "600,,800", False), "--tta-sizes 600,,800: expected whole numbers between commas, e.g. 600,800"),
        ((True, "600,800,600", False), "--tta-sizes 600,800,600: a size is given twice"),
        ((True, "600,99999", False), "multi-scale testing with a short side of 99999 pixels: choose 8 to 4000"),
    ],
)
def test_mistakes_in_the_views_are_told(arguments, message):
    with pytest.raises(UserError) as caught:
        options.multi_scale(*arguments)
    assert str(caught.value) == message
