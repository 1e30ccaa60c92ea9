"""Every file of examples/ without arguments runs; ``test_exported_detector.py`` runs the one with arguments."""

import runpy
import sys
from pathlib import Path

import pytest

OPTIONAL = {"detectron2": "detectron2", "mmdetection": "mmdet", "ultralytics": "ultralytics"}
OPTIONAL |= {name: name for name in ("transformers", "segmentation_models_pytorch")}
FILES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
EXAMPLES = [path for path in FILES if path.stem != "exported_detector"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path, monkeypatch, capsys):
    for prefix, package in OPTIONAL.items():
        if path.stem.startswith(prefix):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out
