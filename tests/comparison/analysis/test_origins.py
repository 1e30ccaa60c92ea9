"""Origin of an interpolator: fresh or trained, and from where, without the folders of this machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from afictl import load_preset
from afictl.comparison.analysis.existing_runs import FinishedRun
from afictl.comparison.analysis.origins import describe_origin, method_result
from afictl.comparison.experiment.specification import Method


@pytest.fixture
def home(tmp_path):
    """A folder with a pre-training in it, a run of a detector, and a file alone."""
    for file in (
        "pre/stage1/config.yaml",
        "pre/interpolator.safetensors",
        "guide/config.yaml",
        "guide/best.safetensors",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "alone.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("source", "origin"),
    [
        ("nearest", "no weights"),
        ("carafe", "fresh"),
        ("kind:afi", "fresh"),
        ("HOME/pre", "trained: pre"),
        ("HOME/pre/interpolator.safetensors", "trained: pre/interpolator.safetensors"),
        ("HOME/guide/best.safetensors", "trained: guide/best.safetensors"),
        ("HOME/alone.safetensors", "trained: alone.safetensors"),  # not the name of somebody's home folder
        ("HOME/compare/afi/seed0", "trained: afi/seed0"),
    ],
)
def test_origin_of_a_method(home, source, origin):
    method = Method("name", source.replace("HOME", str(home)))
    result = method_result(method, home / "compare", None)
    assert result.origin == origin
    assert not result.source.startswith("kind:")


@pytest.mark.parametrize(
    ("kind", "interpolator", "weights", "origin"),
    [
        ("afi", "", "", "fresh"),
        ("afi", "afi", "/home/me/guide.safetensors", "fresh"),
        ("afi", "", "/home/me/guide.safetensors", "as in the start weights guide.safetensors"),
        ("nearest", "", "/home/me/guide.safetensors", "no weights"),
        ("afi", "/home/me/i.safetensors", "/home/me/guide.safetensors", "trained: i.safetensors"),
    ],
)
def test_origin_of_an_existing_run(kind, interpolator, weights, origin):
    preset = load_preset("faster-rcnn-r18-fpn-tiny", [f"interpolator.kind={kind}"])
    run = FinishedRun(Path("run"), preset, {"interpolator": interpolator, "weights": weights}, {})
    assert run.origin(Path("compare")) == origin
    assert describe_origin("unknown", None, None, Path()) == "fresh"  # a kind that another program added
    assert replace(run, config={"interpolator": kind, "weights": ""}).origin(Path()) in ("fresh", "no weights")
