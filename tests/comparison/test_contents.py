"""Which cells are told to have started from other files."""

import pytest

from afictl.comparison import Contender
from afictl.comparison.contents import digests, what_changed
from afictl.comparison.specification import Grid


@pytest.fixture
def grid(preset, tmp_path):
    """From one run come the start weights of all cells and the interpolator of one; some cells are begun."""
    trained = tmp_path / "run"
    trained.mkdir()
    for name in ("best", "interpolator"):
        (trained / f"{name}.safetensors").write_text(name)
    for name in ("nearest", "afi"):
        (tmp_path / "out" / name / "seed0").mkdir(parents=True)
        (tmp_path / "out" / name / "seed0" / "config.yaml").touch()
    contenders = (Contender("nearest", "nearest"), Contender("afi", str(trained)))
    for name in ("annotations/instances_train.json", "annotations/instances_val.json", "train/1.jpg", "val/2.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return Grid(preset, tmp_path / "data", tmp_path / "out", contenders, weights=trained)


@pytest.mark.parametrize(
    ("changed", "cell", "advice"),
    [
        ("best", "afi/seed0", "choose another --output"),  # of all cells, the first by name
        ("interpolator", "afi/seed0", "NAME={run}, or remove {output}/afi"),
    ],
)
def test_detector_and_interpolator_of_one_run_are_told_apart(grid, changed, cell, advice):
    before = digests(grid)
    assert what_changed(grid, before, before) == ""
    file = grid.weights / f"{changed}.safetensors"
    file.write_text("trained again")
    told = what_changed(grid, before, digests(grid))
    assert told.startswith(f"{file}: its content is not what it was when {grid.output / cell} was trained; ")
    assert told.endswith(advice.format(run=grid.weights, output=grid.output))


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_concern_every_cell(grid, split):
    before = digests(grid)
    file = grid.data / "annotations" / f"instances_{split}.json"
    file.write_text("corrected")
    told = what_changed(grid, before, digests(grid))
    assert told.startswith(f"{file}: its content is not what it was when {grid.output / 'afi' / 'seed0'} was trained")
    assert told.endswith("choose another --output")


def test_start_weights_concern_every_cell(grid):
    before = digests(grid)
    (grid.output / "afi" / "seed0" / "config.yaml").unlink()
    (grid.weights / "best.safetensors").write_text("trained again")
    assert str(grid.output / "nearest" / "seed0") in what_changed(grid, before, digests(grid))
    (grid.output / "nearest" / "seed0" / "config.yaml").unlink()
    assert what_changed(grid, before, digests(grid)) == ""


def test_an_interpolator_that_is_added_changes_nothing(grid):
    before = digests(grid)
    more = Grid(grid.preset, grid.data, grid.output, (*grid.contenders, Contender("again", str(grid.weights))))
    assert what_changed(more, before, digests(more)) == ""
