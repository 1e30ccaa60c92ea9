"""Shared flags as a command receives them."""

from types import NoneType
from typing import get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from afictl.cli import main, options
from afictl.cli.command_line import PATH_FLAGS, name_flag
from afictl.errors import UserError
from tests.cli.conftest import commands

app = typer.Typer()


@app.command()
def show(
    precision: options.Precision = "32-true",
    seed: options.Seed = 0,
    output: options.Output = None,
    devices: options.Devices = "auto",
) -> None:
    """Print the values."""
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
    assert str(result.exception).startswith(f"{tmp_path / 'file'} ")
    assert "--output" in str(result.exception)


def test_views_of_test_time_augmentation():
    from afictl.evaluation.tta import TestTimeAugmentation

    assert options.parse_tta(False, None, False) is None
    assert options.parse_tta(True, None, False) == TestTimeAugmentation()
    assert TestTimeAugmentation() == TestTimeAugmentation(
        (400, 500, 600, 700, 800, 900, 1000, 1100, 1200), 4000, flip=True
    )
    assert options.parse_tta(True, "600, 800", True) == TestTimeAugmentation((600, 800), flip=False)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ((False, "600", False), "--tta-sizes .*--tta$"),
        ((False, None, True), "--no-tta-flip .*--tta$"),
        ((True, "big", False), "--tta-sizes big: .*integers"),
        ((True, "600,,800", False), "--tta-sizes 600,,800: .*integers"),
        ((True, "600,800,600", False), "--tta-sizes 600,800,600: .*twice"),
        ((True, "600,99999", False), "99999.* 4000"),
    ],
)
def test_invalid_views_are_errors(arguments, facts):
    with pytest.raises(UserError, match=facts):
        options.parse_tta(*arguments)


def _numbers():
    """Every option of the program with a number, and invalid values."""
    cases = []
    for name, command in commands(main.app):
        kinds = get_type_hints(command.callback)
        for parameter in command.params:
            invalid = {float: ("-1", "x", "nan", "inf", "-inf"), int: ("-1", "x", "1.5")}
            (kind,) = {*(get_args(kinds[parameter.name]) or (kinds[parameter.name],))} - {NoneType}
            for value in invalid.get(kind, ()):
                cases.append(pytest.param(name, parameter, value, id=f"{name} {parameter.opts[0]} {value}"))
    return cases


@pytest.mark.parametrize(("name", "parameter", "value"), _numbers())
def test_invalid_numbers_are_refused(name, parameter, value, afictl):
    command = dict(commands(main.app))[name]
    required = [word for option in command.params if option.required for word in _valid(option)]
    code, output, errors = afictl(*name.split(), *required, f"{parameter.opts[0]}={value}")
    assert (code, output) == (2, "")
    assert f"'{parameter.opts[0]}'" in errors
    assert errors.count("\n") == 1


def _valid(parameter):
    """Words of a valid value of a required parameter."""
    return [parameter.opts[0], "x"] if parameter.opts[0].startswith("-") else ["x"]


def test_every_whole_number_has_a_largest_value():
    parameters = [(words, parameter) for words, command in commands(main.app) for parameter in command.params]
    whole = [(words, parameter) for words, parameter in parameters if parameter.type_descriptor.annotation is int]
    assert "--seed" in {parameter.opts[0] for _, parameter in whole}
    assert not [(words, parameter.opts) for words, parameter in whole if parameter.max is None]


def test_every_flag_with_a_path_is_named_in_errors_about_it():
    parameters = [(command, parameter) for _, command in commands(main.app) for parameter in command.params]
    kinds = [(get_type_hints(command.callback).get(parameter.name), parameter) for command, parameter in parameters]
    flags = {parameter.opts[0] for kind, parameter in kinds if "Path" in str(kind)}
    assert {flag for flag in flags if flag.startswith("--")} <= set(PATH_FLAGS)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--weights a.pth", "--weights a.pth: damaged"),
        ("--weights=./a.pth", "--weights a.pth: damaged"),
        ("--weights a.pth --guide a.pth", "a.pth: damaged"),  # of which of them is not known
        ("--partial a.pth", "a.pth: damaged"),
        ("--weights a", "a.pth: damaged"),
        ("--weights=", "a.pth: damaged"),
    ],
)
def test_an_error_about_a_path_names_its_flag(monkeypatch, words, named):
    monkeypatch.setattr("sys.argv", ["afictl", *words.split()])
    assert name_flag("a.pth: damaged") == named


@pytest.mark.parametrize("digits", [20, 5000])
@pytest.mark.parametrize("flag", ["--seed", "--devices"])
def test_huge_numbers_are_refused(flag, digits):
    assert CliRunner().invoke(app, [flag, "9" * digits]).exit_code == 2


@pytest.mark.parametrize("size", ["9" * 20 + "x9", "9x" + "9" * 5000, "100000x9"])
def test_huge_sizes_are_refused(afictl, size):
    code, _, error = afictl("model", "show", "faster-rcnn-r18-fpn-tiny", "--size", size)
    assert code == 2
    assert error.startswith("error: --size")
