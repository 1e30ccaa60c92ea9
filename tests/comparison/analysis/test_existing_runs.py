import csv
import json
import shutil

import pytest
import yaml

from afictl import UserError
from afictl.comparison import Method, compare_runs, pipeline
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.weights import load_detector, read_checkpoint, save_detector
from tests.helpers.comparisons import make_cost


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fabric, preset, methods, shapes_dir):
    folder = tmp_path_factory.mktemp("runs") / "experiment"
    train_experiment(fabric, ExperimentSettings(preset, shapes_dir, folder, (*methods, Method("fresh", "afi"))))
    return folder


@pytest.fixture
def quick(monkeypatch):
    """No costs are measured and no page is written."""
    costs_of_runs = lambda fabric, folders, *_, **__: (dict.fromkeys(folders, make_cost(0)), {})  # noqa: E731
    monkeypatch.setattr(pipeline, "costs_of_runs", costs_of_runs)
    monkeypatch.setattr(pipeline, "write_report", lambda *_: None)


def copy_run(run, target, **changes):
    """A copy of a run with other values in its ``config.yaml``; dots in keys as ``__``."""
    shutil.copytree(run, target)
    config = yaml.safe_load((target / "config.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        section = config
        for part in path:
            section = section[part]
        section[last] = value
    (target / "config.yaml").write_text(yaml.safe_dump(config))
    return target


def test_runs_are_grouped_by_interpolator_and_paired_by_seed(trained, fabric, tmp_path):
    runs = [trained / name / "seed0" for name in ("afi", "nearest", "fresh")]
    runs += [copy_run(trained / name / "seed0", tmp_path / name, seed=1) for name in ("nearest", "afi")]
    comparison = compare_runs(fabric, runs, tmp_path / "out")
    assert [(method.name, [run.seed for run in method.runs]) for method in comparison.methods] == [
        ("nearest", [0, 1]),
        ("afi-interpolator", [0, 1]),
        ("afi", [0]),
    ]
    assert comparison.methods[1].difference["box/AP"].seeds == 2
    assert comparison.preset == "faster-rcnn-r18-fpn-tiny"
    assert "2 steps of 2 images" in comparison.settings["schedule"]
    assert not [key for key in comparison.settings if "NOT THE SAME" in key]
    recorded = json.loads((trained / "nearest" / "seed0" / "result.json").read_text())
    run = comparison.methods[0].runs[0]
    assert run.metrics == pytest.approx(recorded["metrics"])
    assert run.per_class == recorded["per_class"]
    assert run.training_seconds == pytest.approx(recorded["seconds"], rel=0.1)
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1", "0", "1", "0"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["baseline"] == "nearest"


def test_another_number_of_processes_is_named_in_settings_and_verdict(trained, quick, fabric, tmp_path):
    two = copy_run(trained / "afi" / "seed0", tmp_path / "afi", hardware__processes=2)
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", two], tmp_path / "out")
    counts = comparison.settings["NOT THE SAME, hardware.processes"]
    assert (counts.count("1: nearest seed 0"), counts.count("2: afi seed 0")) == (1, 1)
    assert "hardware.processes" in comparison.methods[1].verdict
    resumed = copy_run(trained / "afi" / "seed0", tmp_path / "resumed", hardware__later_processes=[2])
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", resumed], tmp_path / "out")
    assert "hardware.later_processes" in comparison.methods[1].verdict


def test_another_number_of_threads_is_named_in_settings_and_verdict(trained, quick, fabric, tmp_path):
    """But not where a run of an earlier version recorded none."""
    many = copy_run(trained / "afi" / "seed0", tmp_path / "afi", hardware__threads=64)
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", many], tmp_path / "out")
    assert "64: afi seed 0" in comparison.settings["NOT THE SAME, hardware.threads"]
    assert "hardware.threads" in comparison.methods[1].verdict
    unknown = copy_run(trained / "afi" / "seed0", tmp_path / "unknown", hardware__threads=None)
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", unknown], tmp_path / "out")
    assert "threads" not in comparison.methods[1].verdict


def test_names_separate_runs_of_one_interpolator(trained, quick, fabric, tmp_path):
    """And group runs of separately trained interpolators."""
    plain, afi, fresh = (trained / name / "seed0" for name in ("nearest", "afi", "fresh"))
    slow = copy_run(plain, tmp_path / "slow", preset__train__lr=0.01)
    options = yaml.safe_load((afi / "config.yaml").read_text())["preset"]["interpolator"]["options"]
    renamed = copy_run(fresh, tmp_path / "other", seed=1, preset__interpolator__options=options)
    names = {slow: "slow", afi: "nearest", renamed: "nearest"}
    comparison = compare_runs(fabric, [slow, plain, afi, renamed], tmp_path / "out", names=names)
    assert [(method.name, [run.folder for run in method.runs]) for method in comparison.methods] == [
        ("nearest", [afi, renamed]),
        ("slow", [slow]),
        ("nearest-2", [plain]),
    ]
    assert comparison.settings["NOT THE SAME, train.lr"].startswith(
        "0.01: slow seed 0; 0.001: nearest-2 seed 0, nearest"
    )
    with pytest.raises(UserError, match=r"both of x.*interpolators"):
        compare_runs(fabric, [plain, afi], tmp_path / "out", names={plain: "x", afi: "x"})
    with pytest.raises(UserError, match=rf"nearest with seed 0.*NAME={slow}$"):
        compare_runs(fabric, [plain, slow], tmp_path / "out")


def test_missing_predictions_are_computed_again(trained, quick, fabric, tmp_path):
    run = copy_run(trained / "nearest" / "seed0", tmp_path / "run")
    stored = json.loads((run / "predictions.json").read_text())
    (run / "predictions.json").unlink()
    comparison = compare_runs(fabric, [run, trained / "afi" / "seed0"], tmp_path / "out")
    expected = json.loads((run / "result.json").read_text())["metrics"]
    assert comparison.methods[0].runs[0].metrics == pytest.approx(expected, abs=0.01)
    assert len(json.loads((run / "predictions.json").read_text())) == len(stored)


def test_unequal_settings_are_listed_in_settings_and_verdict(trained, quick, fabric, tmp_path):
    changed = copy_run(trained / "afi" / "seed0", tmp_path / "run", preset__train__lr=0.5, weights="/somewhere")
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", changed], tmp_path / "out")
    unequal = {key: value for key, value in comparison.settings.items() if key.startswith("NOT THE SAME")}
    assert unequal == {
        "NOT THE SAME, train.lr": "0.001: nearest seed 0; 0.5: afi seed 0",
        "NOT THE SAME, weights": "none: nearest seed 0; /somewhere: afi seed 0",
    }
    assert "differ in train.lr, weights " in comparison.methods[1].verdict


def test_a_tuned_setting_is_named_without_a_warning(trained, quick, fabric, tmp_path):
    folder = tmp_path / "tuned"
    nearest = copy_run(trained / "nearest" / "seed0", folder / "nearest" / "seed0", preset__train__lr=0.002)
    afi = copy_run(trained / "afi" / "seed0", folder / "afi" / "seed0")
    record = json.loads((trained / "compare.json").read_text())
    (folder / "compare.json").write_text(json.dumps({**record, "tune": {"train.lr": [0.001, 0.002]}}))
    comparison = compare_runs(fabric, [nearest, afi], tmp_path / "out")
    assert comparison.settings["tuned, train.lr"] == "0.002: nearest seed 0; 0.001: afi seed 0"
    assert not [key for key in comparison.settings if "NOT THE SAME" in key]
    assert "differ" not in comparison.methods[1].verdict


def test_runs_on_other_content_of_the_data_are_not_the_same(trained, quick, fabric, tmp_path):
    changed = copy_run(trained / "afi" / "seed0", tmp_path / "run", contents__train="content:0123456789")
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", changed], tmp_path / "out")
    (key,) = [key for key in comparison.settings if key.startswith("NOT THE SAME")]
    assert key == "NOT THE SAME, contents.train"
    assert "content:01234567: afi seed 0" in comparison.settings[key]
    earlier = copy_run(trained / "afi" / "seed0", tmp_path / "earlier", contents={})
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", earlier], tmp_path / "other")
    assert not [key for key in comparison.settings if key.startswith("NOT THE SAME")]


def test_one_data_set_in_two_folders_needs_its_present_folder(trained, quick, fabric, shapes_dir, tmp_path):
    moved = copy_run(
        trained / "afi" / "seed0", tmp_path / "run", data="/other/machine", hardware__precision="bf16-mixed"
    )
    comparison = compare_runs(fabric, [trained / "nearest" / "seed0", moved], tmp_path / "out", data=shapes_dir)
    assert comparison.annotation_file.is_relative_to(shapes_dir)
    assert "differ in data, precision " in comparison.methods[1].verdict


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"data": "/other"}, ["data ", "/other: afi seed 0", "--data"]),
        ({"preset__input__test_size": 96}, ["input.test_size"]),
        ({"preset__detector__nms_threshold": 0.6}, ["detector.nms_threshold"]),
        ({"preset__train__steps": 5}, ["step 2 of 5", "--resume"]),
        ({"command": "stage1"}, ["config.yaml"]),
        ({"interpolator": "nearest", "preset__interpolator": {"kind": "nearest", "options": {}}}, ["both of nearest"]),
    ],
)
def test_runs_that_cannot_be_compared_are_rejected(trained, quick, fabric, tmp_path, changes, facts):
    changed = copy_run(trained / "afi" / "seed0", tmp_path / "run", **changes)
    with pytest.raises(UserError) as error:
        compare_runs(fabric, [trained / "nearest" / "seed0", changed], tmp_path / "out")
    assert [fact for fact in facts if fact not in str(error.value)] == []
    assert not (tmp_path / "out").exists()


def copy_data(data, target, edit):
    """A copy of a dataset with edited held-out annotations."""
    shutil.copytree(data, target)
    file = target / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return target


def remove_object(content):
    content["annotations"] = content["annotations"][1:]


def rename_class(content):
    content["categories"][0]["name"] = "dog"


def renumber_classes(content):
    for item in (*content["categories"], *content["annotations"]):
        item["id" if "name" in item else "category_id"] += 100


def test_stored_predictions_are_not_scored_on_other_data(trained, quick, fabric, shapes_dir, tmp_path):
    run = copy_run(trained / "nearest" / "seed0", tmp_path / "run")
    content = json.loads((shapes_dir / "annotations" / "instances_val2017.json").read_text())
    predictions = [
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for item in content["annotations"]
    ]
    (run / "predictions.json").write_text(json.dumps(predictions))
    save_metadata(run / "last.safetensors", metrics={"box/AP": 100.0})
    compare_runs(fabric, [run], tmp_path / "same", data=shapes_dir)
    for edit, fact in ((remove_object, " 100.0"), (rename_class, "'dog'"), (renumber_classes, " ids")):
        data = copy_data(shapes_dir, tmp_path / edit.__name__, edit)
        with pytest.raises(UserError) as error:
            compare_runs(fabric, [run], tmp_path / "out", data=data)
        assert fact in str(error.value)
        assert str(run) in str(error.value)


def save_metadata(path, **changes):
    file = read_checkpoint(path)
    save_detector(path, load_detector(path).detector, {**file.metadata, **changes})


def test_a_folder_without_a_run_is_rejected(fabric, tmp_path):
    with pytest.raises(UserError, match=r"--runs .*config\.yaml"):
        compare_runs(fabric, [tmp_path], tmp_path / "out")
    run = tmp_path / "experiment" / "afi" / "seed0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=f"{run}$"):
        compare_runs(fabric, [tmp_path / "experiment"], tmp_path / "out")


def test_the_folder_of_trained_methods_is_not_overwritten(trained, quick, fabric):
    with pytest.raises(UserError, match=str(trained)):
        compare_runs(fabric, [trained / "nearest" / "seed0"], trained)
