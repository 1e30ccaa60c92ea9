"""Models of detectron2 train, evaluate, compare and draw as this package's detectors, on tiny images."""

import re

import pytest
import torch

from afictl.data import make_shapes
from afictl.run_records import read_metrics
from afictl.training import InitialWeights, finetune, pretrain
from afictl.weights import load_detector, read_checkpoint
from tests.helpers.detectron2_presets import small_preset
from tests.helpers.foreign_models import assert_compares_and_draws, assert_evaluates_as_in_training
from tests.helpers.tiny_runs import without_kind

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2")

TINY = (
    "backbone.pretrained=false",
    "input.min_sizes=[64]",
    "input.test_size=64",
    "interpolator.kind=afi",
    "interpolator.options={blocks: 1, growth: 4}",
    "loader.workers=0",
    *(f"{stage}.{key}" for stage in ("train", "stage1", "stage2") for key in ("steps=2", "batch_size=2", "lr=1e-5")),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("few") / "shapes", train=4, val=2, size=64)


@pytest.fixture(scope="module")
def guide_run(tmp_path_factory, fabric, data):
    folder = tmp_path_factory.mktemp("runs")
    preset = small_preset(folder, "mask", *TINY)
    (folder / "mask.yaml").unlink()  # the run stores its settings
    finetune(fabric, preset, data, folder / "guide", InitialWeights("nearest"))
    return folder / "guide"


def test_a_run_stores_the_model_under_its_tensor_names(guide_run, data):
    names = read_checkpoint(guide_run).tensors.keys()
    assert {"model.backbone.fpn_lateral2.weight", "model.roi_heads.mask_head.predictor.weight"} <= names
    assert {"loss_mask", "loss_rpn_loc"} <= read_metrics(guide_run)[0].keys()
    assert_evaluates_as_in_training(guide_run, data)


def test_a_detector_is_finetuned_with_an_interpolator_pretrained_on_the_run(fabric, guide_run, data, tmp_path):
    interpolator = pretrain(fabric, guide_run, data, tmp_path / "pretrain", overrides=without_kind(TINY))
    student = load_detector(tmp_path / "pretrain" / "stage2")
    assert student.preset.detector.anchor_sizes == (16, 32, 64, 128, 256)
    anchors = next(iter(student.detector.model.proposal_generator.anchor_generator.cell_anchors))
    assert anchors[1].tolist() == [-8, -8, 8, 8]
    finetune(
        fabric, load_detector(guide_run).preset, data, tmp_path / "run", InitialWeights(str(interpolator), guide_run)
    )
    finetuned = load_detector(tmp_path / "run")
    assert finetuned.preset.interpolator.kind == finetuned.detector.neck.interpolator.kind == "afi"
    assert f"interpolator: {interpolator} " in (tmp_path / "run" / "log.txt").read_text()


def test_detectron2_weights_of_other_classes_are_initial_weights(fabric, data, tmp_path):
    from detectron2.modeling import build_model

    from afictl.presets.detectron2_configs import read_config

    preset = small_preset(tmp_path, "retinanet", *TINY)
    cfg = read_config(preset.detector.source)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)  # 80 classes
    torch.save({"model": model.state_dict()}, tmp_path / "model_final.pth")
    finetune(fabric, preset, data, tmp_path / "run", InitialWeights("nearest", tmp_path / "model_final.pth"))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert re.search(r" 4 .*model\.head\.cls_score\.weight, model\.head\.cls_score\.bias", log)
    trained = load_detector(tmp_path / "run").detector.model
    assert torch.equal(trained.backbone.bottom_up.stem.conv1.weight, model.backbone.bottom_up.stem.conv1.weight)
    assert trained.loss_normalizer != 100


def test_a_resumed_run_equals_an_uninterrupted_one(fabric, data, tmp_path):
    def run(name, steps, resume=False):
        settings = (*TINY, f"train.steps={steps}", "train.checkpoint_every=1")
        finetune(fabric, small_preset(tmp_path, "retinanet", *settings), data, tmp_path / name, resume=resume)
        return read_checkpoint(tmp_path / name / "last.safetensors").tensors

    uninterrupted = run("uninterrupted", 3)
    run("parts", 2)
    config = tmp_path / "parts" / "config.yaml"
    config.write_text(config.read_text().replace("steps: 2", "steps: 3", 1))
    resumed = run("parts", 3, resume=True)
    assert not [name for name, value in uninterrupted.items() if not torch.equal(resumed[name], value)]


def test_interpolators_are_compared_and_detections_drawn(fabric, data, tmp_path):
    assert_compares_and_draws(fabric, small_preset(tmp_path, "cascade", *TINY), data, tmp_path)
