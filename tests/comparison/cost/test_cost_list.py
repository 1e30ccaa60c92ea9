import pytest

from afictl import UserError
from afictl.comparison import comparison_tables, list_costs


def test_prices_without_data_or_training(fabric, preset, methods):
    found = list_costs(fabric, preset, methods)
    nearest, afi = (method.cost for method in found.methods)
    assert nearest.image_hw == afi.image_hw
    assert min(nearest.image_hw) == preset.input.test_size
    assert nearest.interpolator_parameters == nearest.interpolator_multiply_adds == 0
    assert afi.parameters - nearest.parameters == afi.interpolator_parameters > 0
    assert afi.multiply_adds - nearest.multiply_adds == afi.interpolator_multiply_adds > 0
    assert all(price.peak_bytes >= price.interpolator_peak_bytes > 0 for price in (nearest, afi))
    assert [(method.runs, method.verdict) for method in found.methods] == [((), "")] * 2
    assert len(comparison_tables(found)) == 2  # of detectors, of interpolators


def test_prices_on_the_images_of_a_data_set(fabric, preset, methods, shapes_dir):
    found = list_costs(fabric, preset, methods, data=shapes_dir, baseline="afi")
    assert [method.name for method in found.methods] == ["afi", "nearest"]
    assert found.methods[0].cost.image_hw == (64, 64)
    assert found.image_dir == shapes_dir / "val2017"


def test_the_price_of_an_unknown_baseline(fabric, preset, methods):
    with pytest.raises(UserError, match="--baseline"):
        list_costs(fabric, preset, methods, baseline="fade")
