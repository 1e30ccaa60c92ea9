import pytest
from lightning_fabric import Fabric

from afictl import AFInterpolator
from afictl.comparison import shapes_demo as module
from afictl.errors import UserError


@pytest.fixture
def short(monkeypatch):
    """The demo with a step or two a stage."""
    steps = ("stage1.steps=2", "stage2.steps=2", "loader.workers=0")
    monkeypatch.setattr(module, "_SETTINGS", (*module._SETTINGS, *steps))
    monkeypatch.setattr(module, "_GUIDE_STEPS", 2)
    monkeypatch.setattr(module, "_FINETUNE_STEPS", 1)
    monkeypatch.setattr(module, "_IMAGES", {"train": 8, "val": 2})


def test_the_demo_tells_the_whole_story_and_goes_on_where_it_stopped(short, tmp_path, monkeypatch):
    fabric = Fabric(accelerator="cpu", devices=1)
    found = module.demo(fabric, tmp_path / "demo")
    assert [method.name for method in found.methods] == ["nearest", "afi"]
    for name in ("compare/comparison.csv", "compare/comparison.json", "plots/training.png", "plots/features.png"):
        assert (tmp_path / "demo" / name).stat().st_size > 0
    assert len(list((tmp_path / "demo" / "detections").glob("*.png"))) == 2
    assert AFInterpolator.load(tmp_path / "demo" / "pretrain" / "interpolator.safetensors").channels == 64
    again = module.demo(fabric, tmp_path / "demo")
    assert [method.runs for method in again.methods] == [method.runs for method in found.methods]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "guide").mkdir()
    with pytest.raises(UserError, match="not empty and holds no demo"):
        module.demo(Fabric(accelerator="cpu", devices=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["guide"]
