import json

import pytest
from typer.testing import CliRunner

from afictl import UserError, interpolator_kinds
from afictl.cli.benchmark import app
from afictl.comparison.benchmarks.interpolators import benchmark_interpolators


def test_every_kind_is_measured():
    done = []
    figures = benchmark_interpolators(interpolator_kinds(), 16, (5, 6), 2, lambda *counts: done.append(counts))
    assert [each.kind for each in figures] == interpolator_kinds()
    assert done == [(1, 3), (2, 3), (3, 3)]
    answer = 4 * 16 * 10 * 12
    for each in figures:
        assert (each.parameters > 0) == (each.kind not in ("nearest", "bilinear", "bicubic"))
        assert each.training_milliseconds > 0 < each.forward_milliseconds
        # the answer; in training also its gradient, that of the coarse map and those of the weights
        assert each.forward_peak_bytes >= answer
        assert each.training_peak_bytes >= 2 * answer + answer // 4 + 4 * each.parameters
    by_kind = {each.kind: each for each in figures}
    assert by_kind["bilinear"].multiply_adds == 4 * answer // 4
    assert by_kind["nearest"].forward_peak_bytes == answer


def test_command_shows_and_writes_the_figures(tmp_path):
    file = tmp_path / "figures.json"
    size = ["--channels", "8", "--height", "3", "--width", "4", "--rounds", "1"]
    result = CliRunner().invoke(
        app, ["interpolators", "--interpolators", "nearest, carafe", *size, "--json", str(file)], env={"COLUMNS": "120"}
    )
    assert result.exit_code == 0, result.output
    title = "8 x 3 x 4 (channels x height x width), enlarged twofold; the answer takes 0.0 MB"
    assert title in " ".join(result.output.split())
    written = json.loads(file.read_text())
    assert [each["kind"] for each in written] == ["nearest", "carafe"]
    assert written[1]["parameters"] == 8 * 64 + 64 + 9 * 64 * 100 + 100
    assert f"{written[1]['parameters']:,}" in result.output


def test_unknown_kind_is_told():
    with pytest.raises(UserError, match="did you mean 'carafe'"):
        benchmark_interpolators(["caraf"], 8, (3, 4), 1)
