"""Commands that reproduce a comparison."""

import json
from pathlib import Path

import pytest

from afictl.comparison.report.report_tables import shorten_paths
from afictl.comparison.report.reproduction import list_commands, list_settings, list_versions
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


def test_page_shows_no_folders_of_a_user_and_no_kernel_release(shapes_dir, tmp_path):
    comparison = make_comparison(shapes_dir, tmp_path, seeds=1, masks=False)
    record = {
        "command": ["afictl", "compare", "--data", "/home/alice/my data/coco", "--interpolators", "afi=/srv/alice/run"],
        "platform": "Linux-6.1.0-13-amd64-x86_64-with-glibc2.36",
        "torch": "2.9.1",
    }
    for method in comparison.methods:
        (method.runs[0].folder / "versions.json").write_text(json.dumps(record))
    assert dict(list_versions(comparison)) == {"platform": "Linux-x86_64-with-glibc2.36", "torch": "2.9.1"}
    assert list_commands(comparison) == ["afictl compare --data '…/coco' --interpolators 'afi=…/run'"]
    settings = dict(list_settings(comparison, tmp_path / "elsewhere"))
    assert settings["held-out data"] == "…/instances_val2017.json"
    assert settings["images"] == "…/val2017"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("image /home/alice/data/a.jpg does not exist; see '/mnt/bc'", "image …/a.jpg does not exist; see '…/bc'"),
        ("{report}/afi/seed0", "afi/seed0"),
        ("left out: {report}/afi/x.json: no file", "left out: afi/x.json: no file"),
        (str(Path.home()), "~"),
        ("32-true / 16-mixed, 1/4, https://a.org/b", "32-true / 16-mixed, 1/4, https://a.org/b"),
    ],
)
def test_absolute_paths_in_texts_are_shortened(tmp_path, text, shown):
    assert shorten_paths(text.format(report=tmp_path), tmp_path) == shown
