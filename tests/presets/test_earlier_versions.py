"""Presets that earlier versions stored, with the keys of all kinds in ``neck`` and ``detector``."""

import copy

import pytest
import yaml

from afictl import UserError, load_preset
from afictl.presets import parse_preset, upgrade_settings
from tests.helpers.earlier_versions import DETECTOR, NECK

TINY = {"rpn_batch": 128, "roi_batch": 128, "proposals_before_nms_train": 500, "proposals_before_nms_test": 500}
TINY |= {"proposals_train": 500, "proposals_test": 300, "fc_width": 256, "mask_width": 64}
TINY |= {"anchor_sizes": [16.0, 32.0, 64.0, 128.0, 256.0]}
# What differs from the above in the dump of a preset, as the versions before kinds had keys of their own wrote it.
STORED = {
    "mask-rcnn-r18-pafpn-tiny": ({"kind": "pafpn", "channels": 64}, {**TINY, "kind": "mask-rcnn"}),
    "centermask-r18-bifpn-tiny": (
        {"kind": "bifpn", "channels": 64, "top": "p5", "repeats": 2},
        {**TINY, "kind": "centermask", "size_ranges": [32.0, 64.0, 128.0, 256.0], "nms_threshold": 0.6}
        | {"level_scales": True},
    ),
    "torchvision:maskrcnn_resnet50_fpn_v2": (
        {"norm": "batch"},
        {"kind": "torchvision", "source": "maskrcnn_resnet50_fpn_v2", "segments": True, "proposals_train": 2000}
        | {"box_head": "4conv1fc", "head_norm": "batch"},
    ),
}


def stored_preset(name):
    """The dump of a shipped preset by an earlier version."""
    neck, detector = STORED[name]
    values = load_preset(name).model_dump(mode="json")
    return copy.deepcopy({**values, "neck": {**NECK, **neck}, "detector": {**DETECTOR, **detector}})


IMPLAUSIBLE = (
    ("train.lr", 1000.0),
    ("train.steps", 10**10),
    ("train.milestones", (-5,)),
    ("input.mean", (123.675, 116.28, 103.53)),
    ("input.std", (58.395, 57.12, 57.375)),
    ("input.max_size", 10**9),
    ("detector.max_detections", 10**7),
    ("detector.anchor_ratios", (1e-4, 1.0)),
)
"""Numbers that earlier versions accepted."""


def test_implausible_numbers_of_a_recorded_preset_are_read_and_those_of_overrides_refused():
    recorded = load_preset("faster-rcnn-r18-fpn-tiny").model_dump(mode="json")
    for key, value in IMPLAUSIBLE:
        section, name = key.split(".")
        recorded[section][name] = value
    for overrides in ((), ("input.test_size=320",), ("detector={score_threshold: 0.1}",)):
        preset = parse_preset(recorded, overrides)
        assert all(
            getattr(getattr(preset, key.split(".")[0]), key.split(".")[1]) == value for key, value in IMPLAUSIBLE
        )
    for key, value in IMPLAUSIBLE:
        setting = f"{key}={list(value) if isinstance(value, tuple) else value}"
        with pytest.raises(UserError, match=f"^--set: {key}"):
            parse_preset(recorded, [setting])
        with pytest.raises(UserError, match=f"^--set: {key}"):
            load_preset("faster-rcnn-r18-fpn-tiny", [setting])
    for value in (0, -1.0, 10**400, "1"):
        with pytest.raises(UserError, match=r"run: train\.lr: "):
            parse_preset({**recorded, "train": {**recorded["train"], "lr": value}}, source="run")


@pytest.mark.parametrize("name", STORED)
def test_a_stored_preset_loads_without_keys_of_other_kinds(name, tmp_path):
    preset = load_preset(name)
    assert parse_preset(stored_preset(name)) == preset
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(stored_preset(name)))  # as model show --resolved printed it
    assert load_preset(tmp_path / "resolved.yaml") == preset
    oldest = stored_preset(name)
    for key in ("source", "segments"):  # which the first versions did not have
        if "torchvision" not in name:
            del oldest["detector"][key]
    assert parse_preset(oldest) == preset


@pytest.mark.parametrize("name", STORED)
def test_recorded_settings_equal_those_of_today(name):
    settings = {"command": "finetune", "preset": load_preset(name).model_dump(mode="json"), "seed": 3}
    assert upgrade_settings({**settings, "preset": stored_preset(name)}) == settings
    assert upgrade_settings(settings) == settings
    assert upgrade_settings(None) is None


def test_recorded_settings_get_the_defaults_of_newer_keys():
    settings = {"preset": load_preset("mask-rcnn-r18-pafpn-tiny").model_dump(mode="json")}
    recorded = copy.deepcopy(settings)
    del recorded["preset"]["neck"]["interpolators"], recorded["preset"]["neck"]["top_down_from"]
    assert upgrade_settings(recorded) == settings


def test_a_stored_preset_is_a_base_for_others(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(stored_preset("mask-rcnn-r18-pafpn-tiny")))
    (tmp_path / "next.yaml").write_text("extends: base\ndetector:\n  kind: faster-rcnn\nneck:\n  kind: bifpn\n")
    preset = load_preset(tmp_path / "next.yaml")
    assert (preset.detector.fc_width, preset.neck.channels, preset.neck.repeats) == (256, 64, 6)


def test_overrides_of_a_stored_preset_are_keys_of_its_kind():
    with pytest.raises(UserError, match=r"neck\.repeats"):
        parse_preset(stored_preset("mask-rcnn-r18-pafpn-tiny"), ["neck.repeats=3"])


def test_a_key_of_another_kind_in_an_incomplete_section_is_an_error():
    values = stored_preset("mask-rcnn-r18-pafpn-tiny")
    del values["neck"]["blocks"]
    with pytest.raises(UserError, match=r"run\.yaml: neck\.repeats"):
        parse_preset(values, source="run.yaml")
