"""``afictl eval`` on run folders, checkpoint files and prediction files."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from afictl.cli import eval_sources
from afictl.cli.eval import eval_command
from afictl.cli.eval_sources import named_sources
from afictl.cli.tables import class_table, comparison_table
from afictl.detectors import image_memory
from afictl.errors import UserError
from afictl.evaluation import EVALUATORS, Evaluation
from afictl.evaluation.metrics import CLASS_METRICS, KINDS, METRICS
from afictl.interpolators import AFInterpolator
from afictl.tensor_files import read_tensors, save_tensors
from afictl.training import compilation
from tests.helpers.full_disk import killed_draft

app = typer.Typer()
app.command("eval")(eval_command)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def test_a_run_is_evaluated_on_its_recorded_data(untrained_run):
    result = call("--weights", untrained_run)
    assert result.exit_code == 0
    for text in ("box", "mask", "AP50", "disc", str(untrained_run / "eval"), "4 of 4 images have 20 detections"):
        assert text in result.output
    report = json.loads((untrained_run / "eval" / "metrics.json").read_text())
    assert report["images"] == 4
    assert set(report["metrics"]) == {f"{kind}/{metric.key}" for kind in KINDS for metric in METRICS}
    assert all(metric.title in result.output for metric in METRICS)
    with (untrained_run / "eval" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["disc", "square", "triangle", "cross"]
    predictions = json.loads((untrained_run / "eval" / "predictions.json").read_text())
    assert len({item["image_id"] for item in predictions}) == 4


def test_both_evaluators_and_the_written_predictions_agree(untrained_run, shapes, tmp_path):
    reports = []
    for evaluator in EVALUATORS:
        options = ("--evaluator", evaluator, "--output", tmp_path / evaluator, "--batch-size", 2)
        call("--weights", untrained_run, *options)
        reports.append(json.loads((tmp_path / evaluator / "metrics.json").read_text()))
    predictions = tmp_path / EVALUATORS[0] / "predictions.json"
    content = predictions.read_bytes()
    result = call("--predictions", predictions, "--data", shapes)
    assert result.exit_code == 0
    assert predictions.read_bytes() == content
    reports.append(json.loads((predictions.parent / "metrics.json").read_text()))
    for report in reports[1:]:
        assert report["metrics"] == pytest.approx(reports[0]["metrics"], abs=1e-9)


def test_a_compiled_detector_has_the_same_metrics(untrained_run, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "_COMPILER", {"backend": "eager"})
    monkeypatch.setattr(compilation, "_speed_up", lambda part, device: 1.5)
    reports = []
    for flags in ([], ["--compile"]):
        result = call("--weights", untrained_run, "--output", tmp_path / "out", *flags)
        lines = [line for line in result.output.splitlines() if line.startswith("--compile: ")]
        assert [line.split()[1] for line in lines] == ["backbone", "neck"] * len(flags)
        reports.append(json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"])
    assert reports[0] == pytest.approx(reports[1])


def test_limit_settings_and_other_files_in_the_output(untrained_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("text")
    file = untrained_run / "best.safetensors"
    result = call("--weights", file, "--limit", 1, "--set", "detector.max_detections=3", "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"notes.txt", "metrics.json", "per_class.csv", "predictions.json"}


def test_a_part_of_the_images_has_a_separate_folder(untrained_run, shapes):
    call("--weights", untrained_run, "--limit", 2)
    call("--weights", untrained_run, "--split", "train")
    call("--weights", untrained_run, "--split", "train", "--limit", 1)
    folders = {path.name: path for path in untrained_run.iterdir() if path.is_dir()}
    assert set(folders) == {"eval-val-first2", "eval-train", "eval-train-first1"}
    report = json.loads((folders["eval-val-first2"] / "metrics.json").read_text())
    assert (report["split"], report["limit"], report["images"]) == ("val", 2, 2)
    report = json.loads((folders["eval-train"] / "metrics.json").read_text())
    assert (report["split"], report["limit"], report["images"]) == ("train", None, 1)


def test_results_of_predictions_are_in_their_folder_unless_limited(untrained_run, shapes):
    part = untrained_run / "eval-val-first2"
    call("--weights", untrained_run, "--limit", 2)
    call("--predictions", part / "predictions.json", "--data", shapes, "--limit", 2)
    call("--predictions", part / "predictions.json", "--data", shapes, "--limit", 1)
    assert [path.name for path in part.iterdir() if path.is_dir()] == ["eval-val-first1"]
    assert json.loads((part / "metrics.json").read_text())["limit"] == 2


def test_incomplete_weights_need_partial(untrained_run, shapes, tmp_path):
    tensors, description = read_tensors(untrained_run / "best.safetensors")
    del tensors["head.roi_heads.box_head.fc7.bias"]
    save_tensors(tmp_path / "part.safetensors", tensors, description)
    arguments = ("--weights", tmp_path / "part.safetensors", "--data", shapes, "--limit", 1)
    with pytest.raises(UserError, match=r"1 missing.*fc7\.bias.*--partial"):
        call(*arguments)
    result = call(*arguments, "--partial")
    output = "".join(result.output.splitlines())
    assert re.search(rf"part\.safetensors: {len(tensors)} .*1 missing.*head\.roi_heads\.box_head\.fc7\.bias", output)


@pytest.mark.parametrize("kind", ["detector", "interpolator"])
def test_weights_of_other_classes_are_rejected_before_any_evaluation(untrained_run, shapes, tmp_path, kind):
    other = tmp_path / "other.safetensors"
    if kind == "interpolator":
        AFInterpolator(8, blocks=1, growth=4).save(other)
        facts = r"other\.safetensors: .*interpolator"
    else:
        tensors, description = read_tensors(untrained_run / "best.safetensors")
        save_tensors(other, tensors, description | {"classes": ["disc", "square", "triangle", "star"]})
        data = shapes / "annotations" / "instances_val2017.json"
        facts = rf"{other}.*{data}.*'cross'.*'star'"
    with pytest.raises(UserError, match=facts) as error:
        call("--weights", untrained_run, "--weights", other, "--data", shapes)
    assert "\n" not in str(error.value)
    assert not (untrained_run / "eval").exists()


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], "--weights.*--predictions"),
        (["--weights", "RUN", "--evaluator", "coco"], "--evaluator coco: "),
        (["--weights", "RUN", "--set", "neck.channels=32"], r"--set neck\.channels=32"),
        (["--weights", "RUN", "--set", "input.test_sice=32"], r"test_sice.*'test_size'"),
        (["--weights", "nowhere"], "^nowhere: "),
        (["--weights", "RUN", "--split", "test"], r"instances_test\.json"),
        (["--weights", "RUN", "--name", "net"], "--name"),
        (["--predictions", "RUN", "--tta"], "--tta .*--predictions"),
        (["--predictions", "RUN", "--batch-size", "1", "--devices", "auto"], "--batch-size, --devices .*--predictions"),
        (["--predictions", "RUN"], "untrained.*folder.*JSON"),
        (["--weights", "RUN", "--tta", "--batch-size", "1"], "--batch-size .*--tta"),
        (["--predictions", "RUN", "--compile"], "--compile .*--predictions"),
        (["--predictions", "RUN", "--slice", "64"], "--slice .*--predictions"),
        (["--weights", "RUN", "--slice", "64", "--tta"], "--slice .*--tta"),
        (["--weights", "RUN", "--overlap", "0.2", "--slice-only"], "--overlap, --slice-only .*--slice$"),
        (["--weights", "RUN", "--weights", "EMPTY"], "EMPTY: .*empty"),
        (["--weights", "GRID"], "GRID: .*GRID/afi/seed0"),
        (["--weights", "RUN", "--output", "GRID"], "GRID: .*comparison.*--output"),
        (["--weights", "RUN", "--output", "RUN/config.yaml/x"], r"--output .*/config\.yaml \("),
        (["--predictions", "RUN", "--set", "input.test_size=32"], "--set .*--predictions"),
    ],
)
def test_mistakes_are_one_line(untrained_run, arguments, facts):
    parent = untrained_run.parent
    (parent / "EMPTY").mkdir()
    (parent / "GRID" / "afi" / "seed0").mkdir(parents=True)
    (parent / "GRID" / "afi" / "seed0" / "last.safetensors").touch()
    (parent / "GRID" / "compare.json").touch()
    paths = {"RUN": untrained_run, "EMPTY": parent / "EMPTY", "GRID": parent / "GRID"}
    paths["RUN/config.yaml/x"] = untrained_run / "config.yaml" / "x"
    with pytest.raises(UserError, match=facts) as error:
        call(*(paths.get(argument, argument) for argument in arguments))
    assert "\n" not in str(error.value)
    assert not (untrained_run / "eval").exists()


def test_images_that_cannot_fit_are_told_before_the_first(untrained_run, monkeypatch):
    monkeypatch.setattr(image_memory, "machine_memory", lambda: 200e6)
    settings = ("--set", "input.test_size=2000", "--set", "input.max_size=2000")
    with pytest.raises(UserError, match=r"2000x2000 pixels .*input\.test_size"):
        call("--weights", untrained_run, *settings)


def test_files_of_an_earlier_evaluation_are_removed(untrained_run, shapes, tmp_path):
    out, fewer = tmp_path / "out", tmp_path / "fewer.json"

    def names():
        return {str(path.relative_to(out)) for path in out.rglob("*.*") if path.is_file()}

    call("--weights", untrained_run, "--output", out, "--curves")
    files = {"metrics.json", "per_class.csv", "predictions.json", "pr_curves.png", "pr_curves.csv"}
    assert names() == files
    draft = killed_draft(out / "bbox" / "detections_test_results.zip")
    draft.parent.mkdir()
    draft.touch()
    fewer.write_text(json.dumps(json.loads((out / "predictions.json").read_text())[:9]))
    other = shutil.copyfile(fewer, tmp_path / "other.json")
    call("--predictions", fewer, "--predictions", other, "--data", shapes, "--output", out)
    assert not draft.exists()
    parts = {f"{name}/{file}" for name in ("fewer", "other") for file in ("metrics.json", "per_class.csv")}
    assert names() == parts | {"comparison.json", "comparison.csv"}
    call("--predictions", fewer, "--data", shapes, "--output", out)
    assert names() == parts | {"metrics.json", "per_class.csv"}
    (out / "predictions.json").write_text("text")
    call("--predictions", other, "--data", shapes, "--output", out)
    assert (out / "predictions.json").read_text() == "text"


@pytest.mark.parametrize("folder", ["out", "out/other"])  # of the table, and of the results of the first
def test_no_source_is_removed_as_an_earlier_result(untrained_run, shapes, tmp_path, folder):
    first, second = tmp_path / "other.json", tmp_path / folder / "predictions.json"
    call("--weights", untrained_run, "--output", second.parent)
    shutil.copyfile(second, first)
    call("--predictions", first, "--predictions", second, "--data", shapes, "--output", tmp_path / "out")
    assert second.is_file()
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())[-1]["name"] == "predictions"


@pytest.fixture
def second_source(untrained_run, tmp_path, monkeypatch):
    """A copy of the run's weights, and a function that lets an action happen before they are evaluated."""
    file = Path(shutil.copy(untrained_run / "best.safetensors", tmp_path / "second.safetensors"))
    evaluate = eval_sources.evaluate_source

    def before_second(action):
        def evaluate_source(source, *arguments):
            if source == file:
                action()
            return evaluate(source, *arguments)

        monkeypatch.setattr(eval_sources, "evaluate_source", evaluate_source)

    return file, before_second


def test_a_source_that_vanishes_leaves_the_results_of_the_others(untrained_run, second_source, shapes, tmp_path):
    file, before_second = second_source
    out = tmp_path / "out"
    before_second(file.unlink)
    with pytest.raises(UserError, match=f"^{file}: no such file"):
        call("--weights", untrained_run, "--weights", file, "--data", shapes, "--output", out)
    files = {"metrics.json", "per_class.csv", "predictions.json"}
    assert {path.name for path in (out / "untrained").iterdir()} == files
    assert not (out / "comparison.json").exists()


def test_sources_are_not_compared_on_different_images(untrained_run, second_source, shapes, tmp_path):
    file, before_second = second_source
    data = shutil.copytree(shapes, tmp_path / "data")
    image = sorted((data / "val2017").iterdir())[0]
    before_second(lambda: Image.open(image).save(image, quality=30))
    with pytest.raises(UserError, match=f"^{image.parent}: its images have changed"):
        call("--weights", untrained_run, "--weights", file, "--data", data, "--output", tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_a_table_of_another_encoding_is_recognised_as_that_of_an_evaluation(untrained_run, shapes, tmp_path):
    table = tmp_path / "out" / "comparison.json"
    table.parent.mkdir()
    table.write_bytes("[]".encode("utf-16"))
    assert call("--weights", untrained_run, "--data", shapes, "--output", tmp_path / "out").exit_code == 0
    assert not table.exists()


def test_a_run_without_recorded_data_needs_data(untrained_run):
    (untrained_run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"untrained.*--data"):
        call("--weights", untrained_run)


def test_test_time_augmentation_has_a_separate_folder(untrained_run):
    result = call("--weights", untrained_run, "--limit", 2, "--tta", "--tta-sizes", "64,96", "--no-tta-flip")
    assert result.exit_code == 0
    report = json.loads((untrained_run / "eval-val-first2-tta" / "metrics.json").read_text())
    assert report["tta"] == {"min_sizes": [64, 96], "max_size": 4000, "flip": False}
    assert "mask/AP" in report["metrics"]


def test_detection_in_tiles_has_a_separate_folder(untrained_run):
    result = call("--weights", untrained_run, "--limit", 2, "--slice", 64, "--overlap", 0, "--batch-size", 2)
    assert result.exit_code == 0
    report = json.loads((untrained_run / "eval-val-first2-slice64" / "metrics.json").read_text())
    assert report["slice"] == {"size": 64, "overlap": 0, "whole_image": True}
    assert report["tta"] is None
    assert "mask/AP" in report["metrics"]


def test_several_sources_end_in_one_table_with_differences(untrained_run, shapes, tmp_path):
    output = tmp_path / "both"
    call("--weights", untrained_run, "--output", tmp_path / "one")
    results = json.loads((tmp_path / "one" / "predictions.json").read_text())
    (tmp_path / "fewer.json").write_text(json.dumps(results[: len(results) // 2]))
    files = ("--predictions", tmp_path / "one" / "predictions.json", "--predictions", tmp_path / "fewer.json")
    result = call(*files, "--data", shapes, "--output", output)
    assert "difference to the first" in result.output
    reports = [json.loads((output / name / "metrics.json").read_text()) for name in ("predictions", "fewer")]
    records = json.loads((output / "comparison.json").read_text())
    for record in records:
        value, first = (reports[k]["metrics"][record["metric"]] for k in (record["name"] == "fewer", 0))
        assert record["value"] == value
        assert record["difference"] == (None if value is None else pytest.approx(value - first))
    with (output / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(records) == 2 * len(KINDS) * len(METRICS)
    with pytest.raises(UserError, match=r"source.* twice"):
        call("--weights", untrained_run, "--weights", untrained_run)
    with pytest.raises(UserError, match="nowhere: "):
        call("--weights", untrained_run, "--weights", tmp_path / "nowhere", "--output", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    same_run = tmp_path / "runs" / ".." / "runs" / "untrained"
    with pytest.raises(UserError, match=r"same folder.*--output"):
        call("--weights", untrained_run, "--weights", same_run)


def test_sources_with_one_folder_name_are_refused(untrained_run, monkeypatch):
    nested = untrained_run.parent / "nested"
    shutil.copytree(untrained_run, nested / "untrained")
    monkeypatch.chdir(nested)
    with pytest.raises(UserError, match=r"same folder.*rename"):
        call("--weights", "untrained", "--weights", "../untrained", "--output", "both")
    assert not (nested / "both").exists()


def test_names_are_not_parsed_as_markup():
    row = {"name": "[/] sign", "objects": 3, **{f"box/{metric.key}": 1.0 for metric in CLASS_METRICS}}
    metrics = dict.fromkeys((f"box/{metric.key}" for metric in METRICS), 1.0)
    result = Evaluation(metrics, [row], {})
    console = Console(width=200, file=io.StringIO())
    console.print(class_table(result), comparison_table({"[red]": result, "b": result}))
    output = console.file.getvalue()
    assert "[/] sign" in output
    assert "[red]" in output


def test_sources_of_one_name_are_named_by_their_paths(tmp_path):
    folders = {"a/seed0": tmp_path / "a" / "seed0", "b/seed0": tmp_path / "b" / "seed0", "other": tmp_path / "other"}
    for folder in folders.values():
        folder.mkdir(parents=True)
    assert named_sources(list(folders.values())) == folders
    run = tmp_path / "run"
    run.mkdir()
    for file in ("config.yaml", "best.safetensors", "last.safetensors"):
        (run / file).touch()
    files = [run / "best.safetensors", run / "last.safetensors"]
    assert named_sources(files) == {"best.safetensors": files[0], "last.safetensors": files[1]}
    assert named_sources([run, files[1]]) == {"run": run, "run/last.safetensors": files[1]}
    with pytest.raises(UserError, match=r"source.* twice"):
        named_sources([run, run])


def test_names_are_complete_on_a_narrow_terminal():
    results = {f"{kind}/seed0": Evaluation({"box/AP": 1.0}, [], {}) for kind in ("a-long-name-of-a", "of-another")}
    console = Console(width=80, file=(output := io.StringIO()))
    console.print(comparison_table(results))
    assert "\u2026" not in output.getvalue()


def test_differences_are_below_the_values_and_zero_has_no_sign():
    values = {"first": 41.3, "same": 41.28, "better": 42.5}
    results = {name: Evaluation({"box/AP": value}, [], {}) for name, value in values.items()}
    table = comparison_table(results)
    assert list(table.columns[2].cells) == ["41.3", "41.3\n0.0", "42.5\n+1.2"]


def test_curves_and_confusion_matrix(untrained_run):
    result = call("--weights", untrained_run, "--curves", "--confusion", "--confusion-score", 0)
    assert result.exit_code == 0
    folder = untrained_run / "eval"
    for name in ("pr_curves.png", "confusion.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    with (folder / "pr_curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 101
    discs = [row for row in rows if row["of"] == "box" and row["class"] == "disc"]
    report = json.loads((folder / "metrics.json").read_text())["per_class"][0]
    points = [float(row["precision at IoU 0.50"]) for row in discs if row["precision at IoU 0.50"]]
    assert report["box/AP50"] == (pytest.approx(100 * sum(points) / 101) if points else None)
    with (folder / "confusion.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["object"] for row in table] == ["disc", "square", "triangle", "cross", "background"]
    assert call("--weights", untrained_run, "--curves").exit_code == 0
    assert (folder / "pr_curves.png").is_file()
    assert not list(folder.glob("confusion.*"))  # of another evaluation


def test_a_submission_for_images_without_objects(untrained_run, shapes, tmp_path):
    data = shutil.copytree(shapes, tmp_path / "data")
    content = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    del content["annotations"]
    (data / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))
    (data / "val2017").rename(data / "test2017")
    result = call("--weights", untrained_run, "--data", data, "--split", "test", "--name", "My net")
    assert result.exit_code == 0
    folder = untrained_run / "eval-test"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()}
    zipped = "detections_test-dev2017_My-net_results.zip"
    assert names == {"predictions.json", f"bbox/{zipped}", f"segm/{zipped}"}
    with pytest.raises(UserError, match=r"--curves .*objects"):
        call("--weights", untrained_run, "--data", data, "--split", "test", "--curves")
    result = call("--predictions", folder / "predictions.json", "--data", data, "--split", "test", "--name", "other")
    other = "detections_test-dev2017_other_results.zip"
    assert other in "".join(result.output.split())
    assert [path.name for path in folder.rglob("*.zip")] == [other, other]
    zipped = folder / "segm" / other
    with pytest.raises(UserError, match=rf"{other}.*JSON"):
        call("--predictions", zipped, "--data", shapes)
    shutil.unpack_archive(zipped, tmp_path)
    assert call("--predictions", tmp_path / other.replace(".zip", ".json"), "--data", shapes).exit_code == 0
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert {"box/AP", "mask/AP"} <= report["metrics"].keys()
