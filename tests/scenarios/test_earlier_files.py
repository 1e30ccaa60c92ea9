"""Runs and checkpoints of versions that stored the keys of all kinds and other names of the FPN's convolutions."""

import shutil

import pytest
import torch

from afictl import UserError, build_detector, load_preset, load_weights
from afictl.tensor_files import read_tensors
from afictl.training import InitialWeights, finetune
from afictl.weights import load_detector
from tests.helpers.earlier_versions import former_names, rewrite_run
from tests.helpers.tiny_runs import SMALL, assert_same_states, interrupted_at_batch


@pytest.fixture
def earlier_run(guide_run, tmp_path):
    """A copy of the guide's run whose files are those of an earlier version."""
    shutil.copytree(guide_run, tmp_path / "guide")
    rewrite_run(tmp_path / "guide")
    return tmp_path / "guide"


def test_a_detector_of_an_earlier_version_loads_completely(earlier_run, guide_run):
    tensors, _ = read_tensors(earlier_run / "last.safetensors")
    assert "neck.laterals.p2.weight" in tensors
    loaded, today = load_detector(earlier_run), load_detector(guide_run)
    assert loaded.report == today.report
    assert loaded.report.complete
    assert loaded.preset == today.preset
    assert all(
        torch.equal(value, today.detector.state_dict()[name]) for name, value in loaded.detector.state_dict().items()
    )
    other = build_detector(today.preset, num_classes=len(loaded.classes))
    assert load_weights(other, earlier_run).complete
    assert torch.equal(other.neck.output_convs["p3"].weight, today.detector.neck.output_convs["p3"].weight)


def test_a_run_of_an_earlier_version_is_resumed_bit_for_bit(fabric, shapes_dir, guide_run, tmp_path):
    preset = load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, "train.checkpoint_every=2"))
    run = tmp_path / "run"
    with interrupted_at_batch(3):
        finetune(fabric, preset, shapes_dir, run, InitialWeights("nearest"))
    rewrite_run(run)
    other = load_preset("mask-rcnn-r18-fpn-tiny", (*SMALL, "train.checkpoint_every=2", "detector.mask_width=8"))
    with pytest.raises(UserError, match=r" preset\.detector\.mask_width \d+, now 8$"):
        finetune(fabric, other, shapes_dir, run, InitialWeights("nearest"), resume=True)
    finetune(fabric, preset, shapes_dir, run, InitialWeights("nearest"), resume=True)
    assert_same_states(guide_run, run, ("detector", "detector_optimizer", "best", "metrics", "step"))


@pytest.mark.parametrize("name", ["mask-rcnn-r18-pafpn-tiny", "faster-rcnn-r18-bifpn-tiny"])
def test_state_dicts_of_earlier_versions_load(name, tmp_path):
    preset = load_preset(name, SMALL[:3])
    source, target = (build_detector(preset, 2, "nearest") for _ in range(2))
    state = former_names(source.state_dict())
    target.load_state_dict(state)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())
    neck = build_detector(preset, 2, "nearest").neck
    neck.load_state_dict(former_names(source.neck.state_dict(), prefix=""))
    torch.save(state, tmp_path / "state.pth")
    assert load_weights(target, tmp_path / "state.pth").complete
    with pytest.raises(RuntimeError, match=r"neck\.unknown"):
        target.load_state_dict({**state, "neck.unknown.p2.weight": torch.zeros(1)})
