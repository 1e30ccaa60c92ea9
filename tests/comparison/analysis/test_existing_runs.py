import csv
import json
import shutil

import pytest
import yaml

from afictl import UserError
from afictl.comparison import Method, compare_runs
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.weights import load_detector, read_checkpoint, save_detector


@pytest.fixture(scope="module")
def trained(tmp_path_factory, fabric, preset, methods, shapes_dir):
    folder = tmp_path_factory.mktemp("runs") / "grid"
    train_experiment(fabric, ExperimentSettings(preset, shapes_dir, folder, (*methods, Method("fresh", "afi"))))
    return folder


def copy(run, target, **changes):
    """A copy of a run that says it was made with other values; keys with dots as __."""
    shutil.copytree(run, target)
    config = yaml.safe_load((target / "config.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        place = config
        for part in path:
            place = place[part]
        place[last] = value
    (target / "config.yaml").write_text(yaml.safe_dump(config))
    return target


def test_runs_are_grouped_by_interpolator_and_paired_by_seed(trained, fabric, tmp_path):
    runs = [trained / name / "seed0" for name in ("afi", "nearest", "fresh")]
    runs += [copy(trained / name / "seed0", tmp_path / name, seed=1) for name in ("nearest", "afi")]
    found = compare_runs(fabric, runs, tmp_path / "out")
    assert [(each.name, [cell.seed for cell in each.runs]) for each in found.methods] == [
        ("nearest", [0, 1]),
        ("afi-interpolator", [0, 1]),
        ("afi", [0]),
    ]
    assert found.methods[1].difference["box/AP"].seeds == 2
    assert found.preset == "faster-rcnn-r18-fpn-tiny"
    assert "2 steps of 2 images" in found.settings["schedule"]
    assert not [key for key in found.settings if "NOT THE SAME" in key]
    recorded = json.loads((trained / "nearest" / "seed0" / "result.json").read_text())
    cell = found.methods[0].runs[0]
    assert cell.metrics == pytest.approx(recorded["metrics"])
    assert cell.per_class == recorded["per_class"]
    assert cell.training_seconds == pytest.approx(recorded["seconds"], rel=0.1)
    with (tmp_path / "out" / "runs.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1", "0", "1", "0"]
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["baseline"] == "nearest"


def test_names_tell_runs_of_one_interpolator_apart(trained, fabric, tmp_path):
    """And put runs together whose interpolators were trained apart."""
    plain, afi, fresh = (trained / name / "seed0" for name in ("nearest", "afi", "fresh"))
    slow = copy(plain, tmp_path / "slow", preset__train__lr=0.01)
    options = yaml.safe_load((afi / "config.yaml").read_text())["preset"]["interpolator"]["options"]
    other = copy(fresh, tmp_path / "other", seed=1, preset__interpolator__options=options)
    names = {slow: "slow", afi: "nearest", other: "nearest"}
    found = compare_runs(fabric, [slow, plain, afi, other], tmp_path / "out", names=names)
    assert [(each.name, [cell.folder for cell in each.runs]) for each in found.methods] == [
        ("nearest", [afi, other]),
        ("slow", [slow]),
        ("nearest-2", [plain]),
    ]
    assert found.settings["NOT THE SAME, train.lr"].startswith("0.01: slow seed 0; 0.001: nearest-2 seed 0, nearest")
    with pytest.raises(UserError, match=r"are both x, but of different interpolators; give them different names$"):
        compare_runs(fabric, [plain, afi], tmp_path / "out", names={plain: "x", afi: "x"})
    with pytest.raises(UserError, match=rf"are both nearest with seed 0; tell them apart with NAME={slow}$"):
        compare_runs(fabric, [plain, slow], tmp_path / "out")


def test_a_run_without_predictions_detects_again(trained, fabric, tmp_path):
    run = copy(trained / "nearest" / "seed0", tmp_path / "run")
    kept = (run / "predictions.json").read_text()
    (run / "predictions.json").unlink()
    found = compare_runs(fabric, [run, trained / "afi" / "seed0"], tmp_path / "out")
    assert found.methods[0].runs[0].metrics == pytest.approx(
        json.loads((run / "result.json").read_text())["metrics"], abs=0.01
    )
    assert len(json.loads((run / "predictions.json").read_text())) == len(json.loads(kept))


def test_other_conditions_are_named_loudly(trained, fabric, tmp_path):
    other = copy(trained / "afi" / "seed0", tmp_path / "run", preset__train__lr=0.5, weights="/somewhere")
    found = compare_runs(fabric, [trained / "nearest" / "seed0", other], tmp_path / "out")
    told = {key: value for key, value in found.settings.items() if key.startswith("NOT THE SAME")}
    assert told == {
        "NOT THE SAME, train.lr": "0.001: nearest seed 0; 0.5: afi seed 0",
        "NOT THE SAME, weights": "none: nearest seed 0; /somewhere: afi seed 0",
    }
    assert "but the runs differ in train.lr, weights too" in found.methods[1].verdict


def test_one_data_set_in_two_places_is_named_and_can_be_pointed_at(trained, fabric, shapes_dir, tmp_path):
    elsewhere = copy(
        trained / "afi" / "seed0", tmp_path / "run", data="/other/machine", hardware__precision="bf16-mixed"
    )
    found = compare_runs(fabric, [trained / "nearest" / "seed0", elsewhere], tmp_path / "out", data=shapes_dir)
    assert found.annotation_file.is_relative_to(shapes_dir)
    assert "but the runs differ in data, precision too" in found.methods[1].verdict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": "/other"},
            r"cannot be compared, as data is not the same \(.*: nearest seed 0; /other: afi seed 0\); .*--data",
        ),
        ({"preset__input__test_size": 96}, "cannot be compared, as input.test_size is not the same"),
        ({"preset__detector__nms_threshold": 0.6}, "as detector.nms_threshold is not the same"),
        ({"preset__train__steps": 5}, "has come to step 2 of 5; continue it with --resume"),
        ({"command": "stage1"}, "config.yaml is not that of a run of 'afictl finetune'"),
        ({"interpolator": "nearest", "preset__interpolator": {"kind": "nearest", "options": {}}}, "are both nearest"),
    ],
)
def test_runs_that_cannot_be_compared(trained, fabric, tmp_path, changes, message):
    other = copy(trained / "afi" / "seed0", tmp_path / "run", **changes)
    with pytest.raises(UserError, match=message):
        compare_runs(fabric, [trained / "nearest" / "seed0", other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def change(data, target, edit):
    """A copy of a data set with other held-out annotations."""
    shutil.copytree(data, target)
    file = target / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return target


def test_kept_detections_are_not_scored_against_other_data(trained, fabric, shapes_dir, tmp_path):
    run = copy(trained / "nearest" / "seed0", tmp_path / "run")
    content = json.loads((shapes_dir / "annotations" / "instances_val2017.json").read_text())
    found = [  # what the run is to have found, all of it right
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for item in content["annotations"]
    ]
    (run / "predictions.json").write_text(json.dumps(found))
    save_metadata(run / "last.safetensors", metrics={"box/AP": 100.0})
    compare_runs(fabric, [run], tmp_path / "same", data=shapes_dir)

    def fewer(content):
        content["annotations"] = content["annotations"][1:]

    def renamed(content):
        content["categories"][0]["name"] = "dog"

    def renumbered(content):
        for item in (*content["categories"], *content["annotations"]):
            key = "id" if "name" in item else "category_id"
            item[key] += 100

    for edit, message in (
        (
            fewer,
            r"run: its box AP was 100\.0 when it was trained and is \d+\.\d on .*same; 'afictl eval --weights'",
        ),
        (renamed, r"the 4 classes of .*run are not the 4 of .*does not have 'dog'"),
        (renumbered, r"run: its classes have other ids than in .*instances_val2017\.json"),
    ):
        data = change(shapes_dir, tmp_path / edit.__name__, edit)
        with pytest.raises(UserError, match=message):
            compare_runs(fabric, [run], tmp_path / "out", data=data)


def save_metadata(path, **changes):
    file = read_checkpoint(path)
    save_detector(path, load_detector(path).detector, {**file.metadata, **changes})


def test_a_folder_that_is_no_run(fabric, tmp_path):
    with pytest.raises(UserError, match=r"--runs .*: no run folder; there is no .*config\.yaml"):
        compare_runs(fabric, [tmp_path], tmp_path / "out")
    run = tmp_path / "grid" / "afi" / "seed0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    with pytest.raises(UserError, match=f"there are runs in it: {run}$"):
        compare_runs(fabric, [tmp_path / "grid"], tmp_path / "out")


def test_the_folder_of_a_grid_is_not_overwritten(trained, fabric, methods):
    with pytest.raises(UserError, match="holds something else than a comparison of runs"):
        compare_runs(fabric, [trained / "nearest" / "seed0"], trained)
