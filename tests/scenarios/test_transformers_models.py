"""A model of transformers trains, evaluates, is compared, drawn and a guide as other detectors, on tiny images."""

import pytest

from afictl import UserError, load_preset
from afictl.comparison import compare, parse_methods
from afictl.data import load_dataset, make_shapes
from afictl.distributed import Runtime
from afictl.evaluation import evaluate
from afictl.interpolators import Interpolator
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune, pretrain
from afictl.weights import load_detector, read_checkpoint
from tests.helpers.tiny_runs import drop_states

pytest.importorskip("transformers")
pytest.importorskip("scipy")  # with which transformers matches predictions and objects
from tests.helpers import transformers_models as models

TINY = (
    "input.min_sizes=[64]",
    "input.test_size=64",
    "loader.workers=0",
    *(f"{stage}.{key}" for stage in ("train", "stage1", "stage2") for key in ("steps=1", "batch_size=2")),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("few") / "shapes", train=2, val=1, size=64)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    models.rt_detr().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def guide_run(tmp_path_factory, fabric, data, model_folder):
    folder = tmp_path_factory.mktemp("runs") / "guide"
    preset = load_preset(f"transformers:{model_folder}", [*TINY, "train.ema_decay=0.9"])
    finetune(fabric, preset, data, folder, InitialWeights(weights=model_folder))
    drop_states(folder)
    return folder


def test_a_run_evaluates_as_in_training_with_the_classes_of_the_data(guide_run, data, model_folder):
    loaded = load_detector(guide_run)
    assert loaded.classes == ("disc", "square", "triangle", "cross")
    assert loaded.detector.model.config.num_labels == 4
    assert "class layers are initialised anew" in (guide_run / "log.txt").read_text()
    dataset = load_dataset(data, "val")
    metrics = evaluate(loaded.detector, dataset, Runtime(workers=0), classes=loaded.classes).metrics
    assert metrics == {key: value for key, value in read_metrics(guide_run)[-1].items() if key in metrics}
    assert {"loss_vfl", "loss_bbox", "loss_giou"} <= read_metrics(guide_run)[0].keys()
    names = {f"model.{name}" for name in models.rt_detr().state_dict()}
    assert read_checkpoint(guide_run).tensors.keys() == names


@pytest.mark.parametrize(("features", "stages"), [("levels", (1, 2)), ("sums", (1,))])
def test_a_pretrained_interpolator_starts_a_run(fabric, guide_run, data, tmp_path, features, stages):
    settings = [*TINY, f"stage1.features={features}", "input.min_sizes=[128]"]  # maps that the discriminator can judge
    file = pretrain(fabric, guide_run, data, tmp_path / "a", kind="dysample", stages=stages, overrides=settings)
    preset = load_detector(guide_run).preset
    finetune(fabric, preset, data, tmp_path / "b", InitialWeights(str(file), weights=guide_run))
    trained = Interpolator.load(file)
    loaded = load_detector(tmp_path / "b")
    assert (trained.channels, loaded.preset.interpolator.kind) == (32, "dysample")
    assert f"interpolator: {file} " in (tmp_path / "b" / "log.txt").read_text()
    assert any(".interpolators." in name for name in read_checkpoint(tmp_path / "b").tensors)


def test_a_run_refuses_a_kind_that_needs_the_fine_map(fabric, guide_run, data, tmp_path):
    with pytest.raises(UserError, match=r"sapa.* needs the fine map"):
        finetune(fabric, load_detector(guide_run).preset, data, tmp_path / "b", InitialWeights("sapa"))


def test_interpolators_are_compared(fabric, data, tmp_path, model_folder):
    preset = load_preset(f"transformers:{model_folder}", TINY)
    methods = compare(fabric, preset, data, parse_methods("nearest,carafe"), tmp_path / "c").comparison.methods
    nearest, carafe = (method.cost for method in methods)
    assert nearest.parameters < carafe.parameters
    assert 0 < nearest.multiply_adds < carafe.multiply_adds


def test_a_kind_that_needs_the_fine_map_is_refused_before_any_run(afictl, data, tmp_path, model_folder):
    common = ("--preset", f"transformers:{model_folder}", "--data", data, "--output", tmp_path / "c")
    for command, flag in (
        (("compare", "--interpolators", "nearest,sapa"), "--interpolators sapa"),
        (("finetune", "--interpolator", "sapa"), "--interpolator sapa"),
    ):
        code, _, error = afictl(*command, *common)
        assert code == 2
        assert error.startswith(f"error: {flag}: interpolator 'sapa' needs the fine map")
    assert not list((tmp_path / "c").glob("*/seed*"))


@pytest.mark.parametrize(
    "words",
    [
        ("detections", "--weights", "RUN"),
        ("gradcam", "--weights", "RUN"),
        ("features", "--guide", "RUN", "--interpolator", "bicubic"),
    ],
)
def test_runs_are_drawn(afictl, guide_run, data, tmp_path, words):
    arguments = [guide_run if word == "RUN" else word for word in words]
    code, _, error = afictl("visualize", *arguments, "--data", data, "--output", tmp_path / "out", "--limit", 1)
    assert code == 0, error
    assert list((tmp_path / "out").glob("*.png"))


def test_export_is_refused_in_one_line(afictl, guide_run, tmp_path):
    code, _, error = afictl("export", "--weights", guide_run, "--output", tmp_path / "detector.onnx")
    assert code == 2
    assert "a model of another library" in error
