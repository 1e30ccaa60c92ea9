import json

import pytest

from benchmarks import substitution


def test_table_has_the_steps_and_what_each_interpolator_adds(tmp_path, capsys):
    pytest.importorskip("segmentation_models_pytorch")
    file = tmp_path / "times.json"
    substitution.main(["Unet", "--short", "--rounds", "1", "--json", str(file)])
    assert "Unet" in capsys.readouterr().out
    (row,) = json.loads(file.read_text())
    assert row["steps"] == 5
    assert row["milliseconds"].keys() == {"original", "nearest", "dysample", "afi-lite"}
    assert row["parameters"]["nearest"] == 0
    # 1x1 convolutions to 2 * 4 groups * 4 pixels, with biases.
    assert row["parameters"]["dysample"] == sum(32 * width + 32 for width in (512, 256, 128, 64, 32))
