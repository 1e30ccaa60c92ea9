"""Units and formats of costs."""

import pytest

from afictl.comparison.analysis.cost_columns import COST_COLUMNS
from tests.helpers.comparisons import make_comparison


@pytest.fixture
def comparison(shapes_dir, tmp_path):
    return make_comparison(shapes_dir, tmp_path / "runs", seeds=1, masks=False)


def test_numbers_are_displayed_in_their_unit(comparison):
    texts = {column.key: column.text(column.getter(comparison.methods[0])) for column in COST_COLUMNS}
    assert texts == {
        "parameters": "13.20",
        "multiply_adds": "18.40",
        "milliseconds": "61.0",
        "peak_bytes": "310.0",
        "training_seconds": "14.0",
    }
    assert COST_COLUMNS[0].text(None) == "-"
