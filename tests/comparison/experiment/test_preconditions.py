import json
import shutil
from dataclasses import replace

import pytest
import torch

from afictl import AFInterpolator, UserError, load_preset
from afictl.comparison import Method, compare, pipeline
from afictl.comparison.experiment import preconditions
from afictl.comparison.experiment.execution import train_experiment
from tests.helpers.tiny_runs import SMALL


def error_of(fabric, settings):
    """The error message of an experiment that cannot start."""
    with pytest.raises(UserError) as error:
        train_experiment(fabric, settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_settings_file_is_refused_and_not_overwritten(fabric, settings, content):
    settings.output.mkdir()
    (settings.output / "compare.json").write_text(content)
    assert str(settings.output) in error_of(fabric, settings)
    assert [file.read_text() for file in settings.output.iterdir()] == [content]


def test_other_settings_are_refused_by_key(fabric, finished):
    overrides = [*SMALL, "train.steps=3", "train.eval_every=2", "loader.workers=1"]
    message = error_of(fabric, replace(finished, preset=load_preset("faster-rcnn-r18-fpn-tiny", overrides)))
    assert "it has preset.train.steps 2, now 3;" in message  # not loader.workers, which has no effect on the result


def test_finished_runs_of_another_number_of_processes_are_named_or_refused(
    fabric, settings, finished, monkeypatch, capsys
):
    shutil.copytree(finished.output, settings.output)
    config = settings.output / "afi" / "seed1" / "config.yaml"
    config.write_text(config.read_text().replace("processes: 1", "processes: 2"))
    experiment = replace(finished, output=settings.output)
    assert train_experiment(fabric, experiment) == {}
    assert "afi seed 1: note: trained by 2 processes, now 1 process" in capsys.readouterr().out
    monkeypatch.setattr(preconditions, "process_dependence", lambda preset: "the reason")
    message = error_of(fabric, experiment)
    assert str(config.parent) in message
    assert "as the reason" in message


def test_another_interpolator_under_the_same_name_is_refused(fabric, finished):
    message = error_of(fabric, replace(finished, methods=(Method("nearest", "bilinear"),)))
    assert str(finished.output / "nearest" / "seed0") in message
    assert "bilinear" in message


@pytest.fixture
def with_files(settings, finished, tmp_path):
    """A finished experiment whose interpolator and initial weights are files that may be overwritten."""
    shutil.copytree(finished.output, settings.output)
    interpolator, weights = tmp_path / "interpolator.safetensors", tmp_path / "weights.safetensors"
    shutil.copy(settings.methods[1].source, interpolator)
    shutil.copy(finished.output / "nearest" / "seed0" / "last.safetensors", weights)
    for seed in (0, 1):
        result = settings.output / "afi" / f"seed{seed}" / "result.json"
        result.write_text(json.dumps(json.loads(result.read_text()) | {"interpolator": str(interpolator)}))
    file = settings.output / "compare.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": str(weights), "contents": {}}))
    methods = (settings.methods[0], Method("afi", str(interpolator)))
    return replace(settings, methods=methods, seeds=(0, 1), weights=weights)


def fingerprints(settings):
    return json.loads((settings.output / "compare.json").read_text())["contents"]


@pytest.mark.parametrize(("name", "advice"), [("interpolator", "NAME="), ("weights", "--output")])
def test_an_overwritten_input_file_is_refused(fabric, with_files, tmp_path, name, advice):
    assert train_experiment(fabric, with_files) == {}  # without fingerprints nothing can be compared
    old = fingerprints(with_files)
    assert {with_files.methods[1].source, str(with_files.weights)} < set(old)
    torch.manual_seed(987)  # other weights than those of the fixture, whatever drew them
    AFInterpolator(16, blocks=1, growth=4).save(tmp_path / f"{name}.safetensors")
    message = error_of(fabric, with_files)
    assert f"{name}.safetensors" in message
    assert "afi/seed0" in message
    assert advice in message
    assert fingerprints(with_files) == old
    if name == "interpolator":  # the other methods do not depend on it
        assert train_experiment(fabric, replace(with_files, methods=with_files.methods[:1])) == {}
        shutil.rmtree(with_files.output / "afi")
        assert train_experiment(fabric, replace(with_files, seeds=())) == {}
        assert fingerprints(with_files) != old


@pytest.mark.parametrize("source", ["nowhere", "wide.safetensors"])
def test_every_interpolator_is_checked_before_anything_is_trained(fabric, settings, tmp_path, monkeypatch, source):
    AFInterpolator(8, blocks=1, growth=4).save(tmp_path / "wide.safetensors")
    monkeypatch.chdir(tmp_path)
    methods = (Method("nearest", "nearest"), Method("trained", source))
    message = error_of(fabric, replace(settings, methods=methods))
    assert message.startswith(f"--interpolators trained={source}: ")
    assert message.count(source) == 1
    assert not settings.output.exists()


def test_data_and_weights_are_checked_before_anything_is_trained(fabric, settings, tmp_path, guide_run):
    assert "nowhere" in error_of(fabric, replace(settings, data=tmp_path / "nowhere"))
    assert str(guide_run) in error_of(fabric, replace(settings, weights=guide_run))  # of another detector
    assert not settings.output.exists()


def test_a_folder_with_other_content_is_refused_and_not_written_to(fabric, settings, tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    assert str(tmp_path) in error_of(fabric, replace(settings, output=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_comparison_of_a_former_resnest_preset_keeps_its_pixel_mean(fabric, settings, finished, monkeypatch, capsys):
    shutil.copytree(finished.output, settings.output)
    file, former = settings.output / "compare.json", [0.485, 0.456, 0.406]
    record = json.loads(file.read_text())
    record["preset"]["input"]["mean"] = former
    file.write_text(json.dumps(record, indent=2))
    before = file.read_bytes()

    def resume(mean):
        values = finished.preset.input.model_copy(update={"mean": tuple(mean)})
        preset = finished.preset.model_copy(update={"input": values})
        compare(fabric, preset, finished.data, finished.methods, settings.output, seeds=finished.seeds)
        return capsys.readouterr().out

    monkeypatch.setattr(pipeline, "_summarize", lambda *_: None)
    assert "note" not in resume(former)
    assert f"note: the comparison keeps input.mean={former}" in resume(
        load_preset("cascade-rcnn-s101-pafpn").input.mean
    )
    with pytest.raises(UserError, match=r"compare\.json: .*preset\.input\.mean .*, now \[0\.5, 0\.5, 0\.5\]; "):
        resume([0.5, 0.5, 0.5])
    assert file.read_bytes() == before
