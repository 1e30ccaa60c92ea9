import importlib
import sys

import pytest

from afictl import UserError, build_detector, load_preset
from afictl.presets import parse_preset


class Absent:
    """An import finder for which detectron2 does not exist."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named '{name}'", name="detectron2")


@pytest.fixture
def no_detectron2(monkeypatch):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "detectron2" or (name.startswith("afictl.") and ".detectron2_" in f".{name}"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "afictl.integrations.detectron2", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])


@pytest.mark.usefixtures("no_detectron2")
def test_import_error_names_the_installation_page():
    with pytest.raises(ImportError) as error:
        importlib.import_module("afictl.integrations.detectron2")
    assert "detectron2.readthedocs.io/en/latest/tutorials/install.html" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_detectron2")
def test_preset_errors_name_the_installation_page():
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    stored = parse_preset({"name": "", "detector": {"kind": "detectron2", "source": name}})  # as in a checkpoint
    for action in (lambda: load_preset(f"detectron2:{name}"), lambda: build_detector(stored)):
        with pytest.raises(UserError, match=r"https://detectron2\.readthedocs"):
            action()
