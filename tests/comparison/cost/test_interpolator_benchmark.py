import json

import pytest
from typer.testing import CliRunner

from afictl import UserError, interpolator_kinds
from afictl.cli.benchmark import app
from afictl.comparison.cost.interpolator_benchmark import benchmark_interpolators


def test_every_kind_is_measured():
    progress = []
    costs = benchmark_interpolators(interpolator_kinds(), 16, (5, 6), 2, lambda *counts: progress.append(counts))
    assert [cost.kind for cost in costs] == interpolator_kinds()
    assert progress == [(1, 3), (2, 3), (3, 3)]
    output = 4 * 16 * 10 * 12
    for cost in costs:
        assert (cost.parameters > 0) == (cost.kind not in ("nearest", "bilinear", "bicubic"))
        assert cost.training_milliseconds > 0 < cost.forward_milliseconds
        # the output; in training also its gradient, that of the coarse map and those of the weights
        assert cost.forward_peak_bytes >= output
        assert cost.training_peak_bytes >= 2 * output + output // 4 + 4 * cost.parameters
    by_kind = {cost.kind: cost for cost in costs}
    assert by_kind["bilinear"].multiply_adds == 4 * output // 4
    assert by_kind["nearest"].forward_peak_bytes == output


def test_maps_that_cannot_fit_are_refused():
    with pytest.raises(UserError, match=r"4096x8192x8192 .*--height"):
        benchmark_interpolators(["nearest"], 4096, (8192, 8192), 1)


def test_command_prints_and_writes_the_costs(tmp_path):
    file = tmp_path / "figures.json"
    size = ["--channels", "8", "--height", "3", "--width", "4", "--rounds", "1"]
    result = CliRunner().invoke(
        app, ["interpolators", "--interpolators", "nearest, carafe", *size, "--json", str(file)], env={"COLUMNS": "120"}
    )
    assert result.exit_code == 0, result.output
    assert "8 x 3 x 4 (channels x height x width)" in " ".join(result.output.split())
    costs = json.loads(file.read_text())
    assert [cost["kind"] for cost in costs] == ["nearest", "carafe"]
    assert costs[1]["parameters"] == 8 * 64 + 64 + 9 * 64 * 100 + 100
    assert f"{costs[1]['parameters']:,}" in result.output


def test_unknown_kind_is_an_error():
    with pytest.raises(UserError, match="carafe"):
        benchmark_interpolators(["caraf"], 8, (3, 4), 1)
