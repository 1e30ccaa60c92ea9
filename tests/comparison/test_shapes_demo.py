import pytest
from lightning_fabric import Fabric

from afictl import AFInterpolator
from afictl.comparison import shapes_demo
from afictl.errors import UserError
from tests.helpers.tiny_runs import SMALL


@pytest.fixture
def short_demo(monkeypatch):
    """The demo with a small detector, few images and few steps in each stage."""
    monkeypatch.setattr(shapes_demo, "_OVERRIDES", (*shapes_demo._OVERRIDES, *SMALL))
    monkeypatch.setattr(shapes_demo, "_GUIDE_STEPS", 2)
    monkeypatch.setattr(shapes_demo, "_FINETUNE_STEPS", 1)
    monkeypatch.setattr(shapes_demo, "_NUM_IMAGES", {"train": 4, "val": 2})


def test_the_demo_writes_all_parts_and_can_be_repeated(short_demo, tmp_path):
    fabric = Fabric(accelerator="cpu", devices=1)
    output = tmp_path / "demo"
    comparison = shapes_demo.run_demo(fabric, output)
    assert [method.name for method in comparison.methods] == ["nearest", "afi"]
    for name in ("compare/comparison.csv", "compare/comparison.json", "plots/training.png", "plots/features.png"):
        assert (output / name).stat().st_size > 0
    assert len(list((output / "detections").glob("*.png"))) == 2
    assert AFInterpolator.load(output / "pretrain" / "interpolator.safetensors").channels == 16
    repeated = shapes_demo.run_demo(fabric, output)
    assert [method.runs for method in repeated.methods] == [method.runs for method in comparison.methods]


def test_a_folder_with_other_content_is_refused(tmp_path):
    (tmp_path / "guide").mkdir()
    with pytest.raises(UserError, match=str(tmp_path)):
        shapes_demo.run_demo(Fabric(accelerator="cpu", devices=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["guide"]
