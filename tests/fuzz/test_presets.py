"""Generated preset files: resolved to a preset that reads back as itself, or refused with the place of the fault."""

import math

import pytest
import yaml
from hypothesis import strategies as st

from afictl.presets import load_preset
from tests.helpers.fuzzing import COUNTS, VALUES, check_property, damaged, mutated, run_checked

NAMES = ("faster-rcnn-r18-fpn-tiny", "mask-rcnn-r18-pafpn-tiny", "fcos-r18-fpn-tiny", "cascade-rcnn-swin-t-bifpn-tiny")
TEXTS = (
    *("010", "1_000", "1:30", "yes", "on", "1e-3", "1.e+3", "0x10", "0b1", ".inf", ".nan", "~", "2026-11-28", "-0"),
    *("!!python/object/apply:os.getcwd []", "!!binary AA==", "!other 1", "*alias", "&name [*name]", "[" * 2000, "{}"),
    *("'0.5'", '"a\\x00b"', "|\n  text", "<<: {}", "1.0 # note", "\t1", "%TAG", "[0.485, 0.456, 0.406]", "123.675"),
)
"""Values as YAML text, of which many look like numbers."""


@st.composite
def preset_files(draw, presets):
    content = draw(mutated(draw(st.sampled_from(presets)), VALUES | st.integers(-3, 10**6) | st.floats(0, 1e6)))
    lines = yaml.safe_dump(content, sort_keys=False).splitlines()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        if draw(st.booleans()):
            lines.insert(draw(st.integers(0, len(lines))), lines[place])
        else:
            lines[place] = f"{lines[place].partition(':')[0]}: {draw(st.sampled_from(TEXTS))}"
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    return draw(damaged("\n".join(lines).encode(encoding, "surrogatepass")))


@pytest.mark.parametrize("count", COUNTS)
def test_presets_resolve_or_are_refused(folder, afictl, count):
    file = folder / "fuzzed.yaml"
    presets = [load_preset(name).model_dump(mode="json") for name in NAMES]

    def check(content):
        file.write_bytes(content)
        resolved = run_checked(afictl, folder, "model", "show", file, "--resolved", names=(file.name,))
        if resolved.code == 0:
            (folder / "output" / "resolved.yaml").write_text(resolved.output)
            preset = load_preset(folder / "output" / "resolved.yaml")
            assert preset == load_preset(file)
            assert_numbers_are_finite(preset.model_dump())
            run_checked(afictl, folder, "model", "show", file, "--size", "64x64")

    check_property(preset_files(presets), count, check)


def assert_numbers_are_finite(content):
    for value in content.values() if isinstance(content, dict) else content:
        if isinstance(value, dict | list | tuple):
            assert_numbers_are_finite(value)
        elif isinstance(value, float):
            assert math.isfinite(value)
