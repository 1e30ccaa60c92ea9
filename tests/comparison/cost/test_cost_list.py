import pytest

from afictl import UserError
from afictl.comparison import comparison_tables, list_costs


def test_costs_without_data_or_training(fabric, preset, methods):
    comparison = list_costs(fabric, preset, methods)
    nearest, afi = (method.cost for method in comparison.methods)
    assert nearest.image_hw == afi.image_hw
    assert min(nearest.image_hw) == preset.input.test_size
    assert nearest.interpolator_parameters == nearest.interpolator_multiply_adds == 0
    assert afi.parameters - nearest.parameters == afi.interpolator_parameters > 0
    assert afi.multiply_adds - nearest.multiply_adds == afi.interpolator_multiply_adds > 0
    assert all(cost.peak_bytes >= cost.interpolator_peak_bytes > 0 for cost in (nearest, afi))
    assert [(method.runs, method.verdict) for method in comparison.methods] == [((), "")] * 2
    assert len(comparison_tables(comparison)) == 3  # of origins, of detectors, of interpolators
    assert [method.origin for method in comparison.methods] == ["no weights", "trained: interpolator.safetensors"]


def test_costs_are_measured_on_the_images_of_a_data_set(fabric, preset, methods, shapes_dir):
    comparison = list_costs(fabric, preset, methods, data=shapes_dir, baseline="afi")
    assert [method.name for method in comparison.methods] == ["afi", "nearest"]
    assert comparison.methods[0].cost.image_hw == (64, 64)
    assert comparison.image_dir == shapes_dir / "val2017"


def test_an_unknown_baseline_is_rejected(fabric, preset, methods):
    with pytest.raises(UserError, match="--baseline"):
        list_costs(fabric, preset, methods, baseline="fade")
