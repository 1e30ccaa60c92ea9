import json

import pytest
import torch

from afictl import AFInterpolator, UserError
from afictl.training import Start, finetune, pretrain
from afictl.weights import load_detector


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


def test_stage_1_reports_the_distance_to_the_guide_beside_plain_interpolation(pretrained):
    distance = json.loads((pretrained / "stage1" / "feature_distance.json").read_text())
    assert set(distance) == {"nearest", "bilinear", "bicubic", "afi"}
    for levels in distance.values():
        assert set(levels) == {"p2", "p3", "p4", "p5", "p6"}
        assert all(values["l1"] >= 0 and -1 <= values["cosine"] <= 1 for values in levels.values())


def test_stage_2_trains_a_detector_for_half_size_images(pretrained, guide_run):
    guide, student = load_detector(guide_run), load_detector(pretrained / "stage2")
    assert student.preset.detector.anchor_sizes == tuple(s / 2 for s in guide.preset.detector.anchor_sizes)
    assert student.preset.input.test_size == guide.preset.input.test_size // 2
    assert student.preset.interpolator.kind == "afi"


def test_the_guide_stays_as_it_was(pretrained, guide_run, fabric, shapes_dir, tmp_path):
    before = (guide_run / "last.safetensors").read_bytes()
    pretrain(fabric, guide_run, shapes_dir, tmp_path / "again", stages=(1,), overrides=["stage1.steps=1"])
    assert (guide_run / "last.safetensors").read_bytes() == before


def test_a_resumed_stage_1_equals_an_uninterrupted_one_bit_for_bit(pretrained, fabric, shapes_dir, guide_run, tmp_path):
    def explode(clock, step, *args):
        if step == 3:
            raise KeyboardInterrupt

    folder, overrides = tmp_path / "run", ["stage1.checkpoint_every=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("afictl.training.loop._Clock.stepped", explode)
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
    one_step = preset.model_copy(update={"train": preset.train.model_copy(update={"steps": 1})})
    start = Start(str(pretrained), weights=guide_run)
    finetune(fabric, one_step, shapes_dir, tmp_path / "run", start)
    assert load_detector(tmp_path / "run").preset.interpolator.options["growth"] == 32


def test_a_guide_of_other_classes_is_refused(fabric, guide_run, shapes_dir, tmp_path):
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(shapes_dir / split)
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        text = (shapes_dir / "annotations" / f"instances_{split}.json").read_text()
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(text.replace('"disc"', '"coin"'))
    with pytest.raises(UserError, match="classes"):
        pretrain(fabric, guide_run, tmp_path, tmp_path / "run")
