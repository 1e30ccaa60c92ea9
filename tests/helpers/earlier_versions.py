"""Files of earlier versions, with the keys of all kinds of necks and detectors and former names of the FPN."""

import json
from pathlib import Path

import torch
import yaml

from afictl.tensor_files import read_tensors, save_tensors

NECK = yaml.safe_load("""
kind: fpn
channels: 256
norm: none
fuse: sum
top: pool
repeats: 6
fusion: fast
skips: layer
blocks: plain
""")
DETECTOR = yaml.safe_load("""
kind: faster-rcnn
source: ''
segments: false
anchor_sizes: [32.0, 64.0, 128.0, 256.0, 512.0]
anchors_per_octave: 1
anchor_ratios: [0.5, 1.0, 2.0]
rpn_batch: 256
proposals_before_nms_train: 2000
proposals_before_nms_test: 1000
proposals_train: 1000
proposals_test: 1000
roi_batch: 512
box_head: 2fc
head_norm: none
fc_width: 1024
mask_width: 256
size_ranges: [64.0, 128.0, 256.0, 512.0]
level_scales: false
candidates: 1000
score_threshold: 0.05
nms_threshold: 0.5
max_detections: 100
""")
_FORMER_PARTS = {"lateral_convs": "laterals", "output_convs": "outputs", "downsample_convs": "halvings"}


def former_names(state, prefix="neck."):
    """A state dict with the FPN under ``prefix``, under its names in earlier versions."""
    former = {}
    for name, value in state.items():
        part = name.removeprefix(prefix).partition(".")[0]
        if name.startswith(prefix) and part in _FORMER_PARTS:
            name = prefix + _FORMER_PARTS[part] + name.removeprefix(prefix + part)
        former[name] = value
    return former


def flat_preset(values):
    """The dump of a preset with the keys of all kinds, and without the features of stage 1."""
    stage1 = {key: value for key, value in values["stage1"].items() if key != "features"}
    sections = {"neck": {**NECK, **values["neck"]}, "detector": {**DETECTOR, **values["detector"]}, "stage1": stage1}
    return {**values, **sections}


def rewrite_run(folder: Path) -> None:
    """Turn the files of a run into those of an earlier version."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["classes"], config["contents"]
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "preset": flat_preset(config["preset"])}))
    for file in folder.glob("*.safetensors"):
        tensors, metadata = read_tensors(file)
        save_tensors(file, former_names(tensors), {**metadata, "preset": flat_preset(metadata["preset"])})
    state = torch.load(folder / "state.pt", weights_only=True)
    torch.save({**state, "detector": former_names(state["detector"])}, folder / "state.pt")


def rewrite_comparison(folder: Path) -> None:
    """Turn the settings of a comparison into those of an earlier version."""
    settings = json.loads((folder / "compare.json").read_text())
    del settings["classes"]
    (folder / "compare.json").write_text(json.dumps({**settings, "preset": flat_preset(settings["preset"])}))
