"""Output to a terminal or pipe whose encoding lacks letters of class names and paths."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One image with an object of the class "猫", in a folder of Greek letters."""
    data = tmp_path_factory.mktemp("data") / "δεδομένα"
    (data / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (data / split).mkdir()
        Image.new("RGB", (64, 64)).save(data / split / "é.png")
        content = {
            "images": [{"id": 1, "file_name": "é.png", "width": 64, "height": 64}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [9, 9, 20, 20], "iscrowd": 0}],
            "categories": [{"id": 1, "name": "猫"}],
        }
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return data


@pytest.mark.parametrize(
    ("variables", "arguments", "code", "fact"),
    [
        ({"PYTHONIOENCODING": "ascii"}, ["data", "check"], 0, "Training will run"),
        ({"PYTHONIOENCODING": "ascii"}, ["data", "subset", "--fraction", "2", "ζ"], 2, "error: "),
        pytest.param({"LC_ALL": "C"}, ["data", "check"], 0, "Training will run", marks=pytest.mark.slow),
    ],
)
def test_tables_and_errors_have_replaced_letters(data, variables, arguments, code, fact):
    command = [sys.executable, "-m", "afictl", *arguments[:2], str(data), *arguments[2:]]
    environment = {**os.environ, **variables}
    result = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=False)
    output = (result.stdout + result.stderr).decode("ascii", errors="replace")
    assert result.returncode == code, output
    assert fact in output
    assert "Traceback" not in output
    assert "unexpected" not in output
