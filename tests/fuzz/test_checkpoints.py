"""Generated checkpoints: loaded with the values of their tensors, or refused with the file's name; nothing runs."""

import argparse
import collections
import io
import math
import os
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from afictl import build_detector, load_preset, load_weights
from afictl.errors import UserError
from tests.helpers.foreign_checkpoints import to_detectron2
from tests.helpers.fuzzing import COUNTS, check_property, damaged, run_checked
from tests.helpers.hostile_files import Calls
from tests.helpers.tiny_runs import set_flags

CLASSES = ("cat", "dog")
SETTINGS = ("backbone.options={channels: [4, 4, 8, 8]}", "neck.channels=8", "detector.fc_width=8")
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "ema", "extra")
CHANGES = ("remove", "reshape", "type", "value", "rename")
PREFIXES = ("module.", "_orig_mod.", "model.", "other.")


def small_detector():
    torch.manual_seed(3)
    preset = load_preset("faster-rcnn-r18-fpn-tiny", SETTINGS)
    return build_detector(preset, num_classes=len(CLASSES), interpolator="nearest")


def extras(marker):
    """Values that other programs store beside the tensors; the last would make a folder if it ran."""
    arguments = argparse.Namespace(lr=0.1, data="/data")
    history = collections.deque([1.0, 2.0], maxlen=3)
    return (3, None, "text", {"lr": [0.1]}, arguments, history, torch.Size([2]), Calls(os.mkdir, marker))


@dataclass(frozen=True)
class File:
    """A checkpoint file as bytes, and the steps by which it was made."""

    content: bytes = field(repr=False)
    is_intact: bool
    """Whether a detector that loads it completely has the tensors it was made from."""
    steps: tuple[str, ...]


@st.composite
def checkpoint_files(draw, own, foreign, marker):
    layout = draw(st.sampled_from(["afictl", "afictl", "detectron2"]))
    tensors, changes = draw(changed_tensors(own if layout == "afictl" else foreign))
    prefix = "".join(draw(st.lists(st.sampled_from(PREFIXES), max_size=2)))
    content = {prefix + name: value for name, value in tensors.items()}
    steps = [layout, *changes, f"prefix {prefix!r}"]
    if draw(st.integers(0, 3)) == 0:
        written = save({name: value.contiguous() for name, value in content.items()})
    else:
        for wrapper in draw(st.lists(st.sampled_from(WRAPPERS), max_size=2)):
            beside = draw(st.lists(st.integers(0, 7), max_size=3))
            content = {wrapper: content, **{f"beside{k}": extras(marker)[k] for k in beside}}
            steps.append(f"in {wrapper!r} beside {beside}")
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=draw(st.booleans()))
        written = file.getvalue()
    given = draw(damaged(written))
    steps += ["damaged"] if given != written else []
    return File(given, not changes and given == written, tuple(steps))


@st.composite
def changed_tensors(draw, tensors):
    """``tensors`` with up to two changes, and the names of the changes."""
    tensors, changes = dict(tensors), []
    for _ in range(draw(st.integers(0, 2))):
        name, change = draw(st.sampled_from(sorted(tensors))), draw(st.sampled_from(CHANGES))
        value = tensors.pop(name)
        match change:
            case "reshape":
                tensors[name] = torch.zeros(draw(st.lists(st.integers(0, 4), max_size=5)))
            case "type":
                tensors[name] = value.to(draw(st.sampled_from([torch.int64, torch.bool, torch.float16])))
            case "value":
                tensors[name] = torch.full_like(value, draw(st.sampled_from([3.0, math.nan])) if value.ndim else 3)
            case "rename":
                tensors[draw(st.text(max_size=12))] = value
        changes.append(f"{change} {name}")
    return tensors, changes


@pytest.mark.parametrize("count", COUNTS)
def test_checkpoints_load_or_are_refused(folder, afictl, count):
    detector = small_detector()
    own, foreign = dict(detector.state_dict()), to_detectron2(detector)
    marker, path, output = folder / "marker", folder / "fuzzed.pth", folder / "output" / "converted.safetensors"

    def check(file):
        path.write_bytes(file.content)
        arguments = (path, output, "--classes", ",".join(CLASSES), *set_flags(SETTINGS))
        run_checked(afictl, folder, "convert", *arguments, names=(path.name,))
        assert not marker.exists()
        module = small_detector()
        for value in module.parameters():
            torch.nn.init.constant_(value, 0.5)
        try:
            report = load_weights(module, path)
        except UserError as error:
            message = str(error)
            assert path.name in message
            assert "\n" not in message
            return
        if file.is_intact and report.complete:
            torch.testing.assert_close(dict(module.state_dict()), own)
        assert [value.dtype for value in module.state_dict().values()] == [value.dtype for value in own.values()]

    check_property(checkpoint_files(own, foreign, str(marker)), count, check)
    assert not marker.exists()
