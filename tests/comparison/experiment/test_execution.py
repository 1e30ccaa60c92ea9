import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from lightning_fabric.plugins.precision import MixedPrecision
from torch import nn

from afictl import AFInterpolator, UserError, build_interpolator, interpolator_kinds, load_preset
from afictl.comparison import Method, compare
from afictl.comparison.experiment import comparison_run, execution
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.training import splits as splits_module
from afictl.training.initial_weights import (
    InitialWeights,
    build_seeded_detector,
    load_initial_weights,
    resolve_interpolator,
)
from afictl.weights import read_checkpoint
from tests.helpers.earlier_versions import rewrite_comparison
from tests.helpers.full_disk import fill_disk_for, needs_dev_full
from tests.helpers.tiny_runs import SMALL


@pytest.fixture(scope="module")
def finished(tmp_path_factory, fabric, preset, methods, shapes_dir):
    """The folder of a grid of two methods and two seeds; not to be written to."""
    folder = tmp_path_factory.mktemp("grid") / "out"
    assert train_experiment(fabric, ExperimentSettings(preset, shapes_dir, folder, tuple(methods), (0, 1))) == {}
    return folder


@pytest.fixture
def grid(preset, methods, shapes_dir, tmp_path):
    return ExperimentSettings(preset, shapes_dir, tmp_path / "out", tuple(methods))


def refuse(*args, **kwargs):
    raise AssertionError("trained again")


def tensors(run):
    return read_checkpoint(run / "last.safetensors").tensors


def test_every_cell_is_an_ordinary_run_with_its_result(finished):
    cells = [f"{name}/seed{seed}" for name in ("afi", "nearest") for seed in (0, 1)]
    assert sorted(str(path.parent.relative_to(finished)) for path in finished.glob("*/*/result.json")) == cells
    for cell in cells:
        result = json.loads((finished / cell / "result.json").read_text())
        assert result["seed"] == int(cell[-1])
        assert {"box/AP", "box/APs"} <= set(result["metrics"])
        assert all(row["objects"] > 0 and "box/AP" in row for row in result["per_class"])
        assert result["seconds"] > 0
        assert isinstance(json.loads((finished / cell / "predictions.json").read_text()), list)
        assert (finished / cell / "config.yaml").is_file()
        assert not (finished / cell / "state.pt").exists()  # three times the weights, and of no use any more


@needs_dev_full
def test_a_cell_without_space_leaves_the_others_alone_and_goes_on_later(fabric, grid, monkeypatch):
    second, first = (grid.output / name / "seed0" for name in ("afi", "nearest"))
    train = execution.train_run

    def fill():
        fill_disk_for(second / "result.json")

    def train_on_a_full_disk(fabric, preset, data, job):
        if job.folder == second:
            measured = comparison_run.score_predictions
            monkeypatch.setattr(comparison_run, "score_predictions", lambda *a, **k: (fill(), measured(*a, **k))[1])
        train(fabric, preset, data, job)

    monkeypatch.setattr(execution, "train_run", train_on_a_full_disk)
    failures = train_experiment(fabric, grid)
    assert failures == {"afi seed 0": f"{second / 'result.json'}: No space left on device; free some"}
    assert (second / "state.pt").is_file()
    assert (grid.output / "compare.json").is_file()
    monkeypatch.undo()
    before = (first / "result.json").stat().st_mtime_ns
    assert train_experiment(fabric, grid) == {}
    assert (first / "result.json").stat().st_mtime_ns == before


def test_a_finished_cell_without_its_result_is_measured_again(fabric, grid, finished):
    shutil.copytree(finished, grid.output)
    cell = grid.output / "nearest" / "seed0"
    (cell / "result.json").unlink()
    assert train_experiment(fabric, grid) == {}
    steps = [json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    expected = json.loads((finished / "nearest" / "seed0" / "result.json").read_text())
    assert json.loads((cell / "result.json").read_text())["metrics"] == expected["metrics"]


def start(preset, source, weights=None, seed=3):
    preset, interpolator = resolve_interpolator(preset, source, seed)
    detector = build_seeded_detector(preset, interpolator, 3, seed)
    load_initial_weights(detector, InitialWeights(source, weights))
    prefix = detector.interpolator_prefix
    return {name: value for name, value in detector.state_dict().items() if not name.startswith(prefix)}


@pytest.mark.parametrize("kind", [*interpolator_kinds(), "FILE"])
def test_all_other_parts_start_bit_for_bit_alike(preset, methods, guide_run, kind):
    """Whatever the interpolator draws when it is made, from scratch and from trained weights."""
    source = methods[1].source if kind == "FILE" else kind
    mask_preset = load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
    for recipe, weights in ((preset, None), (mask_preset, None), (mask_preset, guide_run)):
        expected, found = start(recipe, "nearest", weights), start(recipe, source, weights)
        assert list(found) == list(expected)
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_another_seed_starts_otherwise(preset):
    ours, theirs = start(preset, "nearest"), start(preset, "nearest", seed=4)
    drawn = [name for name in ours if name.startswith("head.") and name.endswith("weight")]
    assert drawn
    assert not [name for name in drawn if torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "holds no settings of a comparison"), ("{", "Expecting property name")]
)
def test_settings_that_are_none_are_refused_and_kept(fabric, grid, content, message):
    grid.output.mkdir()
    (grid.output / "compare.json").write_text(content)
    with pytest.raises(UserError, match=message):
        train_experiment(fabric, grid)
    assert [file.read_text() for file in grid.output.iterdir()] == [content]


def test_every_cell_starts_with_a_fresh_scaler_of_16_bit_gradients(fabric, grid, monkeypatch):
    precision = MixedPrecision("16-mixed", "cpu")
    monkeypatch.setattr(fabric.strategy, "_precision", precision)
    scales = []

    def train(fabric, preset, data, job):
        scales.append(precision.scaler.get_scale())
        precision.scaler.load_state_dict({**precision.scaler.state_dict(), "scale": 3.0})

    monkeypatch.setattr(execution, "train_run", train)
    assert train_experiment(fabric, grid) == {}
    assert scales[0] == scales[1] > 3


def test_within_a_seed_all_see_the_same_images_in_the_same_order(fabric, grid, monkeypatch):
    seen = []
    train_batches = splits_module.train_batches

    def spy(*args, **kwargs):
        for batch in train_batches(*args, **kwargs):
            seen.append((batch.image_ids, [float(image.sum()) for image in batch.images]))
            yield batch

    monkeypatch.setattr(splits_module, "train_batches", spy)
    train_experiment(fabric, replace(grid, seeds=(0, 1)))
    assert len(seen) == 8
    assert seen[0:2] == seen[2:4] != seen[4:6] == seen[6:8]


def test_the_same_command_again_trains_nothing(finished, fabric, preset, methods, shapes_dir, monkeypatch, capsys):
    monkeypatch.setattr("afictl.comparison.experiment.comparison_run.finetune", refuse)
    assert train_experiment(fabric, ExperimentSettings(preset, shapes_dir, finished, tuple(methods), (0, 1))) == {}
    assert "4 of 4 runs are finished already\n" in capsys.readouterr().out


def test_what_a_command_leaves_out_of_its_answer_is_told(finished, fabric, preset, methods, shapes_dir, capsys):
    assert train_experiment(fabric, ExperimentSettings(preset, shapes_dir, finished, tuple(methods[:1]), (1,))) == {}
    printed = capsys.readouterr().out
    assert (
        "left out are finished runs that this command does not name: afi/seed0, afi/seed1, nearest/seed0\n" in printed
    )


def test_methods_and_seeds_are_added_and_the_rest_is_kept(fabric, grid, monkeypatch):
    trained = []

    def fake(fabric, preset, data, job):
        trained.append(str(job.folder.relative_to(grid.output)))
        job.folder.mkdir(parents=True)
        result = {"interpolator": job.start.as_config()["interpolator"], "seed": job.seed, "seconds": 1.0}
        result |= {"metrics": {}, "per_class": []}
        (job.folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr("afictl.comparison.experiment.execution.train_run", fake)
    train_experiment(fabric, grid)
    assert trained == ["nearest/seed0", "afi/seed0"]
    trained.clear()
    more = (*grid.methods, Method("bilinear", "bilinear"))
    train_experiment(fabric, replace(grid, methods=more, seeds=(0, 1)))
    assert trained == ["bilinear/seed0", "nearest/seed1", "afi/seed1", "bilinear/seed1"]


def test_a_stopped_grid_goes_on_in_the_middle_of_a_cell(fabric, preset, methods, shapes_dir, tmp_path, finished):
    short = ExperimentSettings(preset, shapes_dir, tmp_path / "out", tuple(methods), (0, 1))
    steps = []

    def interrupt(clock, step, *args):
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.logger.TrainingLogger.log_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_experiment(fabric, short)
    assert (short.output / "nearest" / "seed0" / "result.json").is_file()
    assert not (short.output / "afi" / "seed0" / "result.json").exists()
    train_experiment(fabric, short)
    for job in short.jobs():
        ours, whole = tensors(job.folder), tensors(finished / job.folder.relative_to(short.output))
        assert all(torch.equal(ours[key], whole[key]) for key in whole)


def test_a_cell_that_diverges_does_not_stop_the_others(fabric, grid, monkeypatch):
    def diverge(losses):
        if not (grid.output / "afi").exists():
            raise FloatingPointError("loss_box_reg became nan")
        return {name: value.item() for name, value in losses.items()}

    with monkeypatch.context() as patch:
        patch.setattr("afictl.training.loop._to_floats", diverge)
        answer = compare(fabric, grid.preset, grid.data, grid.methods, grid.output)
    assert list(answer.failures) == ["nearest seed 0"]
    assert re.match(r"loss_box_reg became nan at step 1 \(images .*lower", answer.failures["nearest seed 0"])
    assert [method.name for method in answer.comparison.methods] == ["afi"]
    again = compare(fabric, grid.preset, grid.data, grid.methods, grid.output)
    assert again.failures == {}
    assert [method.name for method in again.comparison.methods] == ["nearest", "afi"]


def test_an_unexpected_error_of_a_cell_is_kept_with_its_traceback(fabric, grid, monkeypatch):
    def fail(fabric, preset, data, job):
        job.folder.mkdir(parents=True)
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr("afictl.comparison.experiment.execution.train_run", fail)
    failures = train_experiment(fabric, grid)
    assert failures == dict.fromkeys(("nearest seed 0", "afi seed 0"), "unexpected RuntimeError: out of memory")
    assert "Traceback" in (grid.output / "nearest" / "seed0" / "log.txt").read_text()


def test_a_grid_of_which_nothing_ends_has_no_comparison(fabric, grid, monkeypatch):
    monkeypatch.setattr("afictl.comparison.experiment.comparison_run.finetune", refuse)
    answer = compare(fabric, grid.preset, grid.data, grid.methods, grid.output)
    assert answer.comparison is None
    assert set(answer.failures) == {"nearest seed 0", "afi seed 0"}


def test_other_conditions_are_refused_by_name(finished, fabric, methods, shapes_dir):
    other = load_preset("faster-rcnn-r18-fpn-tiny", [*SMALL, "train.steps=3", "train.eval_every=2", "loader.workers=1"])
    with pytest.raises(UserError, match=r"under other conditions \(preset\.train\.steps\); choose another --output"):
        train_experiment(fabric, ExperimentSettings(other, shapes_dir, finished, tuple(methods), (0, 1)))


def test_a_comparison_of_an_earlier_version_continues(finished, fabric, grid, monkeypatch):
    shutil.copytree(finished, grid.output)
    rewrite_comparison(grid.output)
    monkeypatch.setattr("afictl.comparison.experiment.execution.train_run", refuse)
    assert train_experiment(fabric, replace(grid, seeds=(0, 1))) == {}


def test_another_interpolator_under_the_same_name_is_refused(finished, fabric, preset, shapes_dir):
    with pytest.raises(UserError, match="give it another name"):
        train_experiment(fabric, ExperimentSettings(preset, shapes_dir, finished, (Method("nearest", "bilinear"),)))


def _grid_with_files(grid, finished, tmp_path):
    """A finished grid whose interpolator and start weights are files here, and what its ``compare.json`` says."""
    shutil.copytree(finished, grid.output)
    file, start = tmp_path / "interpolator.safetensors", tmp_path / "start.safetensors"
    shutil.copy(grid.methods[1].source, file)
    shutil.copy(finished / "nearest" / "seed0" / "last.safetensors", start)
    for seed in (0, 1):
        result = grid.output / "afi" / f"seed{seed}" / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"interpolator": str(file)}))
    kept = grid.output / "compare.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"weights": str(start), "contents": {}}))
    methods = (grid.methods[0], Method("afi", str(file)))
    return replace(grid, methods=methods, seeds=(0, 1), weights=start), file, start


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "interpolator",
            r"interpolator\.safetensors: its content is not what it was when .*afi/seed0 was trained; give",
        ),
        (
            "start",
            r"start\.safetensors: its content is not what it was when .*afi/seed0 was .*; choose another --output",
        ),
    ],
)
def test_a_file_that_was_trained_again_in_place_is_noticed(fabric, grid, finished, tmp_path, name, message):
    whole, file, start = _grid_with_files(grid, finished, tmp_path)
    assert train_experiment(fabric, whole) == {}  # a grid of which no digests are known goes on
    kept = json.loads((grid.output / "compare.json").read_text())["contents"]
    assert {str(file), str(start)} < set(kept)
    torch.manual_seed(987)  # not the state in which the fixture may have drawn the first one
    AFInterpolator(16, blocks=1, growth=4).save(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=message) as error:
        train_experiment(fabric, whole)
    assert "\n" not in str(error.value)
    assert json.loads((grid.output / "compare.json").read_text())["contents"] == kept
    if name == "interpolator":  # the others do not depend on it
        assert train_experiment(fabric, replace(whole, methods=whole.methods[:1])) == {}
        shutil.rmtree(grid.output / "afi")
        assert train_experiment(fabric, replace(whole, seeds=())) == {}
        assert json.loads((grid.output / "compare.json").read_text())["contents"] != kept


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "neither a kind .* nor a run of pretrain nor a file"),
        ("wide.safetensors", "the interpolator has 8 channels"),
    ],
)
def test_every_interpolator_is_resolved_before_anything_is_trained(
    fabric, grid, tmp_path, monkeypatch, source, message
):
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "wide.safetensors")
    monkeypatch.chdir(tmp_path)
    methods = (Method("nearest", "nearest"), Method("mine", source))
    with pytest.raises(UserError, match=f"^--interpolators mine={source}: {message}"):
        train_experiment(fabric, ExperimentSettings(grid.preset, grid.data, grid.output, methods))
    assert not grid.output.exists()


def test_data_and_weights_that_do_not_fit_are_told_once_before_anything_is_trained(fabric, grid, tmp_path, guide_run):
    with pytest.raises(UserError, match="nowhere"):
        train_experiment(fabric, replace(grid, data=tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        train_experiment(
            fabric, ExperimentSettings(grid.preset, grid.data, grid.output, grid.methods, weights=guide_run)
        )
    assert not grid.output.exists()


def test_a_folder_of_something_else_is_left_alone(fabric, grid, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(UserError, match="not empty"):
        train_experiment(fabric, replace(grid, output=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_kinds_of_interpolators_do_draw(preset):
    """So that the test of equal starts could fail."""
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert isinstance(build_interpolator("carafe", 16), nn.Module)
    assert not torch.equal(before, torch.random.get_rng_state())
