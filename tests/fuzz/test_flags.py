"""Generated command lines: they run, or are refused in one line before anything is written."""

import json
import shutil

import pytest
import yaml
from hypothesis import strategies as st

from afictl.presets import load_preset
from tests.fuzz.test_presets import TEXTS
from tests.helpers.fuzzing import COUNTS, SCALARS, check_property, run_checked
from tests.helpers.tiny_runs import SMALL, set_flags

PRESETS = ("faster-rcnn-r18-fpn-tiny", "mask-rcnn-r18-pafpn-tiny", "fcos-r18-fpn-tiny")
FLAGS = {
    "model show": {
        "--size": ("64x64", "0x0", "1x1", "-3x5", "64", "99999999x9", "x"),
        "--interpolator": ("nearest", "afi", "carafe", "nearst", "", "data"),
        "--classes": ("1", "80", "0", "-1", "1e3", "100000000000"),
    },
    "finetune": {
        "--interpolator": ("nearest", "dysample", "afi", "nearst", "", "data", "results.json"),
        "--seed": ("0", "-1", "99999999999999999999", "a"),
        "--precision": ("32-true", "auto", "bf16-mixed", "64", ""),
        "--devices": ("1", "0", "-2", "many", "1e9"),
        "--nodes": ("1", "0"),
        "--weights": ("absent", "data", "data/annotations/instances_val.json"),
        "--backbone-weights": ("absent", "data/train/3.png"),
    },
}
"""Values of the flags of each command, valid and not."""


def keys(content, prefix=""):
    for name, value in content.items():
        yield prefix + name
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")


SETTINGS = tuple(dict.fromkeys(key for name in PRESETS for key in keys(load_preset(name).model_dump())))
NUMBERS = (st.integers(-2, 2000) | st.floats(0, 1e6) | st.integers(2**20, 2**70)).map(str)


@st.composite
def command_lines(draw, command):
    text = st.sampled_from(TEXTS) | SCALARS.map(lambda value: str(value)[:400]) | NUMBERS
    setting = st.tuples(st.sampled_from(SETTINGS), text).map("=".join)
    near = st.tuples(st.sampled_from(SETTINGS), st.sampled_from(["1", "2", "0.5", "[32]", "true"])).map("=".join)
    settings = draw(st.lists(setting | near | near | text, max_size=2))
    flags = draw(st.lists(st.sampled_from(sorted(FLAGS[command])), max_size=2, unique=True))
    values = [draw(st.sampled_from(FLAGS[command][flag])) for flag in flags]
    preset = draw(st.sampled_from(PRESETS if command == "model show" else PRESETS[:2]))
    return preset, (*set_flags(settings), *(w for pair in zip(flags, values, strict=True) for w in pair))


@pytest.mark.parametrize("count", COUNTS)
def test_settings_are_taken_or_refused(folder, afictl, monkeypatch, count):
    monkeypatch.chdir(folder)

    def check(case):
        preset, arguments = case
        shown = run_checked(afictl, folder, "model", "show", preset, "--size", "64x64", *arguments)
        resolved = run_checked(afictl, folder, "model", "show", preset, "--resolved", *arguments)
        if shown.code == resolved.code == 0:
            assert yaml.safe_load(resolved.output)["name"]

    check_property(command_lines("model show"), count // 2, check)


@pytest.mark.parametrize("count", COUNTS)
def test_training_runs_or_is_refused(folder, results, afictl, monkeypatch, count):
    monkeypatch.chdir(folder)
    (folder / "results.json").write_text(json.dumps(results))
    run = folder / "output" / "run"
    small = set_flags(setting for setting in (*SMALL, "train.steps=1") if not setting.startswith(("stage", "interp")))
    fixed = ("--data", "data", "--output", run, "--interpolator", "nearest", *small)

    def check(case):
        preset, arguments = case
        shutil.rmtree(run, ignore_errors=True)
        ended = run_checked(afictl, folder, "finetune", "--preset", preset, *fixed, *arguments)
        if ended.code == 0:
            assert (run / "last.safetensors").is_file()
        elif run.exists():
            assert (run / "config.yaml").is_file()

    check_property(command_lines("finetune"), count // 2, check)
