"""Which cells are told to have started from other files."""

import pytest

from afictl.comparison import Method
from afictl.comparison.experiment.fingerprints import compute_fingerprints, find_changed_input
from afictl.comparison.experiment.specification import ExperimentSettings


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
    methods = (Method("nearest", "nearest"), Method("afi", str(trained)))
    for name in ("annotations/instances_train.json", "annotations/instances_val.json", "train/1.jpg", "val/2.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return ExperimentSettings(preset, tmp_path / "data", tmp_path / "out", methods, weights=trained)


@pytest.mark.parametrize(
    ("changed", "cell", "advice"),
    [
        ("best", "afi/seed0", "choose another --output"),  # of all cells, the first by name
        ("interpolator", "afi/seed0", "NAME={run}, or remove {output}/afi"),
    ],
)
def test_detector_and_interpolator_of_one_run_are_told_apart(grid, changed, cell, advice):
    before = compute_fingerprints(grid)
    assert find_changed_input(grid, before, before) == ""
    file = grid.weights / f"{changed}.safetensors"
    file.write_text("trained again")
    told = find_changed_input(grid, before, compute_fingerprints(grid))
    assert told.startswith(f"{file}: its content is not what it was when {grid.output / cell} was trained; ")
    assert told.endswith(advice.format(run=grid.weights, output=grid.output))


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_concern_every_cell(grid, split):
    before = compute_fingerprints(grid)
    file = grid.data / "annotations" / f"instances_{split}.json"
    file.write_text("corrected")
    told = find_changed_input(grid, before, compute_fingerprints(grid))
    assert told.startswith(f"{file}: its content is not what it was when {grid.output / 'afi' / 'seed0'} was trained")
    assert told.endswith("choose another --output")


def test_start_weights_concern_every_cell(grid):
    before = compute_fingerprints(grid)
    (grid.output / "afi" / "seed0" / "config.yaml").unlink()
    (grid.weights / "best.safetensors").write_text("trained again")
    assert str(grid.output / "nearest" / "seed0") in find_changed_input(grid, before, compute_fingerprints(grid))
    (grid.output / "nearest" / "seed0" / "config.yaml").unlink()
    assert find_changed_input(grid, before, compute_fingerprints(grid)) == ""


def test_an_interpolator_that_is_added_changes_nothing(grid):
    before = compute_fingerprints(grid)
    more = ExperimentSettings(grid.preset, grid.data, grid.output, (*grid.methods, Method("again", str(grid.weights))))
    assert find_changed_input(more, before, compute_fingerprints(more)) == ""
