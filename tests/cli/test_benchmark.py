import json

import pytest
from typer.testing import CliRunner

from afictl.cli.main import app
from afictl.errors import UserError


def invoke(*words):
    return CliRunner().invoke(app, ["benchmark", *(str(word) for word in words)], terminal_width=200)


@pytest.mark.slow
def test_everything_is_measured_and_written(shapes_dir, tmp_path):
    options = ("--scale", 0.002, "--rounds", 1, "--count", 8, "--json", tmp_path / "figures.json")
    done = invoke("data", "--data", shapes_dir, *options)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "figures.json").read_text())
    assert {"pycocotools", "afictl, first", "afictl, later", "afictl, first, 8 at once"} <= found["reading"][
        "results"
    ].keys()
    assert all(found["loading"][kind]["afictl"] > 0 for kind in ("boxes", "masks"))
    assert "afictl, later, 8 at once" in done.output


def test_a_wrong_data_set_is_told_before_the_long_part(tmp_path):
    failed = invoke("data", "--data", tmp_path / "nowhere")
    assert isinstance(failed.exception, UserError)
    assert "nowhere does not exist" in str(failed.exception)
