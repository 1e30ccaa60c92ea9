"""Values of shipped presets that were corrected: runs and comparisons that began with the former ones keep them."""

import pytest

from afictl import load_preset
from afictl.presets import with_former_values

CHANGES = {
    "cascade-rcnn-s101-fpn": "input.mean=[0.485, 0.456, 0.406]",
    "cascade-rcnn-s101-pafpn": "input.mean=[0.485, 0.456, 0.406]",
    "cascade-rcnn-swin-l-bifpn": "backbone.options={drop_path_rate: 0.3}",
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_former_value_of_a_shipped_preset_is_kept_and_told(name):
    present, former = load_preset(name), load_preset(name, [CHANGES[name]])
    recorded = former.model_dump(mode="json")
    preset, note = with_former_values(present, recorded, "the run")
    assert preset == former != present
    assert note.startswith(f"note: the run keeps {CHANGES[name].partition('=')[0]}=")
    assert with_former_values(former, recorded, "the run") == (former, "")
    assert with_former_values(present, present.model_dump(mode="json"), "the run") == (present, "")


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("cascade-rcnn-s101-fpn", "input.mean=[0.5, 0.5, 0.5]"),  # no former value
        ("cascade-rcnn-s101-fpn", "train.steps=7"),
        ("cascade-rcnn-swin-t-bifpn", "backbone.options={drop_path_rate: 0.3}"),  # another network's
    ],
)
def test_another_difference_is_not_kept(name, override):
    present, other = load_preset(name), load_preset(name, [override])
    assert with_former_values(present, other.model_dump(mode="json"), "the run") == (present, "")
    assert with_former_values(present, {}, "the run") == (present, "")
