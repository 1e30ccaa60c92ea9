"""A training that diverges ends in one error that names what became infinite or NaN; it never crashes."""

import pytest
import torch
from lightning_fabric import Fabric

from afictl import UserError, build_detector, list_presets, load_preset
from afictl.interpolators import build_interpolator, learned_kinds
from afictl.necks import build_neck
from afictl.presets import FPNConfig
from afictl.training import InitialWeights, finetune, pretrain
from tests.helpers.backbone_maps import NARROW, features
from tests.helpers.narrow_presets import narrow_preset
from tests.helpers.tiny_runs import SMALL

DETECTORS = ("mask-rcnn", "cascade-rcnn", "centermask", "retinanet", "fcos")
DIVERGING = ("optimizer=sgd", "lr=100", "warmup_steps=0", "steps=20", "eval_every=20", "clip_norm=null")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kind", learned_kinds())
def test_weights_that_are_not_finite_give_nan_and_no_crash(kind, value):
    interpolator = build_interpolator(kind, 8)
    neck = build_neck(FPNConfig(channels=8), NARROW, interpolator)
    with torch.no_grad():
        for parameter in interpolator.parameters():
            parameter.flatten()[0] = value
    levels = neck({level: x.requires_grad_() for level, x in features(NARROW, 64, 96, images=2).items()})
    assert value == 1e30 or not levels["p2"].isfinite().all()
    sum(x.sum() for x in levels.values()).backward()


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_with_nan_in_its_neck_computes_losses_and_detections(name):
    torch.manual_seed(0)
    detector = build_detector(
        narrow_preset(
            next(preset for preset in list_presets() if preset.startswith(f"{name}-r18") and "tiny" in preset)
        ),
        3,
        interpolator="dysample",
    ).train()
    with torch.no_grad():
        for parameter in detector.neck.parameters():
            parameter.flatten()[0] = float("nan")
    images = 2 * [torch.rand(3, 64, 64)]
    targets = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}]
    targets[0]["masks"] = torch.ones(1, 64, 64, dtype=torch.bool)
    losses = detector(images, 2 * targets)
    assert any(value.isnan() for value in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        assert all(detection["boxes"].isfinite().all() for detection in detector.eval()(images))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_diverging_dysample_ends_in_one_error(shapes_dir, tmp_path, precision):
    small = (setting for setting in SMALL if "interpolator" not in setting)
    diverging = (f"train.{setting}" for setting in DIVERGING)
    preset = load_preset("faster-rcnn-r18-fpn-tiny", (*small, *diverging))
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    with pytest.raises(UserError, match=r"^(the|loss_\w+) .* at step \d+ \(images \d") as error:
        finetune(fabric, preset, shapes_dir, tmp_path / "run", InitialWeights("dysample"))
    assert "lower the learning rate" in str(error.value)
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize("stage", [1, 2])
def test_a_diverging_stage_ends_in_one_error(fabric, guide_run, shapes_dir, tmp_path, stage):
    settings = [f"stage1.{setting}" for setting in ("steps=1", "eval_every=1")] if stage == 2 else []
    settings += [f"stage{stage}.{setting}" for setting in DIVERGING]
    with pytest.raises(
        UserError,
        match=r"^(the|loss_\w+) .* at step \d+ \(images \d",
    ):
        pretrain(fabric, guide_run, shapes_dir, tmp_path / "out", kind="dysample", overrides=settings)
