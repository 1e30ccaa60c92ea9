"""Commands that reproduce a comparison."""

import json

import pytest

from afictl.comparison.report.reproduction import list_commands
from tests.helpers.comparisons import make_comparison


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/usr/lib/python3/site-packages/afictl/__main__.py", "afictl"),  # python -m afictl
        ("afictl/__main__.py", "afictl"),
        ("/opt/venv/bin/afictl", "afictl"),
        ("afictl", "afictl"),
        ("/home/me/study.py", "study.py"),
    ],
)
def test_a_command_starts_with_the_name_of_the_program(shapes_dir, tmp_path, program, name):
    comparison = make_comparison(shapes_dir, tmp_path, seeds=1, masks=False)
    for method in comparison.methods:
        record = {"command": [program, "compare", "--set", "a b=1"]}
        (method.runs[0].folder / "versions.json").write_text(json.dumps(record))
    assert list_commands(comparison) == [f"{name} compare --set 'a b=1'"]
