"""Changed input files and the runs that depend on them."""

import json
from dataclasses import replace

import pytest

from afictl.comparison import Method
from afictl.comparison.experiment.fingerprints import compute_fingerprints, find_changed_input
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.data.hashing import file_digest
from tests.helpers.changed_data import change_annotations, renumber


@pytest.fixture
def settings(preset, shapes_dir, tmp_path):
    """Begun runs of two methods; one run is the source of all initial weights and of the interpolator of ``afi``."""
    source = tmp_path / "run"
    source.mkdir()
    for name in ("best", "interpolator"):
        (source / f"{name}.safetensors").write_text(name)
    for method in ("nearest", "afi"):
        folder = tmp_path / "out" / method / "seed0"
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    methods = (Method("nearest", "nearest"), Method("afi", str(source)))
    change_annotations(shapes_dir, tmp_path / "data", lambda split, content: None)
    return ExperimentSettings(preset, tmp_path / "data", tmp_path / "out", methods, weights=source)


@pytest.mark.parametrize(
    ("name", "advice"),
    [("best", "--output"), ("interpolator", "NAME={run}, or remove {output}/afi")],
)
def test_detector_and_interpolator_of_one_run_have_separate_fingerprints(settings, name, advice):
    old = compute_fingerprints(settings)
    assert find_changed_input(settings, old, old) == ""
    file = settings.weights / f"{name}.safetensors"
    file.write_text("trained again")
    error = find_changed_input(settings, old, compute_fingerprints(settings))
    assert str(file) in error
    assert str(settings.output / "afi/seed0") in error
    assert error.endswith(advice.format(run=settings.weights, output=settings.output))


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_are_inputs_of_every_run(settings, split):
    old = compute_fingerprints(settings)
    file = settings.data / "annotations" / f"instances_{split}2017.json"
    edit(file, lambda split, content: content["annotations"].pop())
    error = find_changed_input(settings, old, compute_fingerprints(settings))
    assert str(file) in error
    assert error.endswith("--output")


def edit(file, change):
    content = json.loads(file.read_text())
    change("", content)
    file.write_text(json.dumps(content))


def test_other_ids_change_no_input(settings):
    old = compute_fingerprints(settings)
    for file in (settings.data / "annotations").iterdir():
        edit(file, renumber)
    assert find_changed_input(settings, old, compute_fingerprints(settings)) == ""


def test_digests_of_annotation_files_of_earlier_versions_are_compared(settings):
    file = settings.data / "annotations" / "instances_val2017.json"
    old = compute_fingerprints(settings) | {str(file): file_digest(file)}
    assert find_changed_input(settings, old, compute_fingerprints(settings)) == ""
    edit(file, renumber)  # the digest cannot tell that nothing else has changed
    assert str(file) in find_changed_input(settings, old, compute_fingerprints(settings))


def test_initial_weights_are_inputs_of_every_begun_run(settings):
    old = compute_fingerprints(settings)
    (settings.output / "afi" / "seed0" / "config.yaml").unlink()
    (settings.weights / "best.safetensors").write_text("trained again")
    new = compute_fingerprints(settings)
    assert str(settings.output / "nearest" / "seed0") in find_changed_input(settings, old, new)
    (settings.output / "nearest" / "seed0" / "config.yaml").unlink()
    assert find_changed_input(settings, old, new) == ""


def test_an_added_method_changes_no_input(settings):
    old = compute_fingerprints(settings)
    extended = replace(settings, methods=(*settings.methods, Method("added", str(settings.weights))))
    assert find_changed_input(extended, old, compute_fingerprints(extended)) == ""
