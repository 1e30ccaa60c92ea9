import json
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml

from afictl import AFInterpolator, UserError
from afictl.data import eval_batches, load_coco
from afictl.detectors import Detector
from afictl.training import InitialWeights, finetune, pretrain
from afictl.training.feature_distance import feature_distance
from afictl.weights import load_detector
from tests.helpers.changed_data import rename_disc


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, fabric, shapes_dir, guide_run):
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    pretrain(fabric, guide_run, shapes_dir, folder)
    return folder


def test_both_stages_leave_a_run_and_one_interpolator_file(pretrained):
    for stage in ("stage1", "stage2"):
        assert {"config.yaml", "metrics.jsonl", "state.pt", "best.safetensors", "interpolator.safetensors"} <= {
            path.name for path in (pretrained / stage).iterdir()
        }
    result = AFInterpolator.load(pretrained / "interpolator.safetensors")
    assert result.channels == 16
    first = AFInterpolator.load(pretrained / "stage1" / "interpolator.safetensors")
    assert any(not torch.equal(a, b) for a, b in zip(result.parameters(), first.parameters(), strict=True))


def test_stage_1_reports_the_distance_to_the_guide_beside_plain_interpolation(pretrained, guide_run, shapes_dir):
    distance = json.loads((pretrained / "stage1" / "feature_distance.json").read_text())
    assert set(distance) == {"nearest", "bilinear", "bicubic", "afi"}
    guide = load_detector(guide_run).detector
    sums: dict = {}
    for batch in eval_batches(load_coco(shapes_dir, "val"), guide.input, workers=0, half_view=True):
        with torch.no_grad():
            real, coarse = guide.pyramid(batch.images), guide.pyramid(batch.half_images)
        for level, target in real.items():
            for kind in ("nearest", "bilinear"):
                fake = F.interpolate(coarse[level], scale_factor=2, mode=kind)[
                    ..., : target.shape[2], : target.shape[3]
                ]
                sums.setdefault((kind, level), []).append((fake - target).abs().mean().item())
    for (kind, level), values in sums.items():  # 64-pixel images fill their batch, so nothing is padding
        assert distance[kind][level]["l1"] == pytest.approx(sum(values) / len(values), rel=1e-4)


def test_a_fresh_interpolator_is_as_far_as_bilinear(guide_run, shapes_dir):
    guide = load_detector(guide_run).detector
    fresh, index = AFInterpolator(16), load_coco(shapes_dir, "val")
    distance = feature_distance(guide, fresh, index, limit=2, workers=0, progress=lambda done, total: None)
    for level, values in distance["afi"].items():
        assert values["l1"] == pytest.approx(distance["bilinear"][level]["l1"], rel=1e-2)


def test_stage_2_trains_a_detector_for_half_size_images(pretrained, guide_run):
    guide, student = load_detector(guide_run), load_detector(pretrained / "stage2")
    assert student.preset.detector.anchor_sizes == tuple(s / 2 for s in guide.preset.detector.anchor_sizes)
    assert student.preset.input.test_size == guide.preset.input.test_size // 2
    assert student.preset.interpolator.kind == "afi"


def test_a_guide_that_is_no_guide_of_the_paper_is_told(fabric, preset, shapes_dir, tmp_path, pretrained):
    one_step = preset.model_copy(update={"train": preset.train.model_copy(update={"steps": 1})})
    finetune(fabric, one_step, shapes_dir, tmp_path / "guide", InitialWeights("bilinear"))
    pretrain(fabric, tmp_path / "guide", shapes_dir, tmp_path / "out", stages=(1,), overrides=("stage1.steps=1",))
    log = (tmp_path / "out" / "stage1" / "log.txt").read_text()
    assert f"guide {tmp_path / 'guide'}: " in log
    assert " tensors loaded" in log
    assert f"warning: the guide {tmp_path / 'guide'} interpolates with bilinear; a guide in the paper" in log
    assert "warning" not in (pretrained / "stage1" / "log.txt").read_text()


def test_the_guide_stays_as_it_was(guide_run, fabric, shapes_dir, tmp_path, monkeypatch):
    guides = []
    to_device = fabric.to_device

    def spy(value):
        if isinstance(value, Detector):
            guides.append((value, {name: tensor.clone() for name, tensor in value.state_dict().items()}))
        return to_device(value)

    monkeypatch.setattr(fabric, "to_device", spy)
    pretrain(fabric, guide_run, shapes_dir, tmp_path / "again")
    ((guide, before),) = guides
    assert all(torch.equal(before[name], value) for name, value in guide.state_dict().items())


def test_a_resumed_stage_1_equals_an_uninterrupted_one_bit_for_bit(pretrained, fabric, shapes_dir, guide_run, tmp_path):
    def explode(clock, step, *args):
        if step == 3:
            raise KeyboardInterrupt
        return 0.0

    folder, overrides = tmp_path / "run", ["stage1.checkpoint_every=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.logger.TrainingLogger.log_step", explode)
        with pytest.raises(KeyboardInterrupt):
            pretrain(fabric, guide_run, shapes_dir, folder, stages=(1,), overrides=overrides)
    pretrain(fabric, guide_run, shapes_dir, folder, stages=(1,), overrides=overrides, resume=True)
    for part in ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer"):
        whole = torch.load(pretrained / "stage1" / "state.pt", weights_only=True)[part]
        resumed = torch.load(folder / "stage1" / "state.pt", weights_only=True)[part]
        torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_stage_2_alone_needs_a_finished_stage_1(fabric, guide_run, shapes_dir, tmp_path):
    with pytest.raises(UserError, match="stage 1"):
        pretrain(fabric, guide_run, shapes_dir, tmp_path / "run", stages=(2,))


def test_stage_2_alone_goes_on_from_stage_1(pretrained, fabric, guide_run, shapes_dir, tmp_path):
    folder = tmp_path / "run"
    pretrain(fabric, guide_run, shapes_dir, folder, stages=(1,))
    pretrain(fabric, guide_run, shapes_dir, folder, stages=(2,))
    ours, both = (AFInterpolator.load(run / "interpolator.safetensors") for run in (folder, pretrained))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), both.parameters(), strict=True))


def test_the_result_goes_into_a_detector(pretrained, fabric, preset, guide_run, shapes_dir, tmp_path):
    one_step = preset.model_copy(update={"train": preset.train.model_copy(update={"steps": 1, "warmup_steps": 0})})
    start = InitialWeights(str(pretrained), weights=guide_run)
    finetune(fabric, one_step, shapes_dir, tmp_path / "run", start)
    held, trained = load_detector(tmp_path / "run"), AFInterpolator.load(pretrained / "interpolator.safetensors")
    assert held.preset.interpolator.options == trained.options
    change = [
        (a - b).abs().max()
        for a, b in zip(held.detector.neck.interpolator.parameters(), trained.parameters(), strict=True)
    ]
    assert 0 < max(change) < 1e-2  # one small step away from the pre-trained weights


def test_overrides_reach_the_views_and_the_interpolator(fabric, guide_run, shapes_dir, tmp_path):
    overrides = ["input.test_size=32", "interpolator.options={blocks: 2, growth: 6}", "stage1.steps=1"]
    pretrain(fabric, guide_run, shapes_dir, tmp_path / "run", stages=(1,), overrides=overrides)
    assert AFInterpolator.load(tmp_path / "run" / "interpolator.safetensors").options["growth"] == 6
    config = yaml.safe_load((tmp_path / "run" / "stage1" / "config.yaml").read_text())
    assert config["preset"]["input"]["test_size"] == 32


@pytest.mark.parametrize("setting", ["neck.channels=8", "backbone.frozen_stages=1"])
def test_a_trained_guide_keeps_its_layers(fabric, guide_run, shapes_dir, tmp_path, setting):
    with pytest.raises(UserError, match="cannot change"):
        pretrain(fabric, guide_run, shapes_dir, tmp_path / "run", overrides=[setting])
    assert not (tmp_path / "run").exists()


def test_stage_2_refuses_an_unfinished_stage_1(pretrained, fabric, guide_run, shapes_dir, tmp_path):
    shutil.copytree(pretrained / "stage1", tmp_path / "run" / "stage1")
    with pytest.raises(UserError, match="step 4 of 9"):
        pretrain(fabric, guide_run, shapes_dir, tmp_path / "run", stages=(2,), overrides=["stage1.steps=9"])


def test_a_guide_of_other_classes_is_refused(fabric, guide_run, shapes_dir, tmp_path):
    with pytest.raises(UserError, match="classes"):
        pretrain(fabric, guide_run, rename_disc(shapes_dir, tmp_path / "data"), tmp_path / "run")
