import importlib
import sys

import pytest


class Absent:
    """An import finder for which detectron2 does not exist."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named '{name}'", name="detectron2")


@pytest.fixture
def no_detectron2(monkeypatch):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "detectron2" or name.startswith("afictl.integrations.detectron2"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])


@pytest.mark.usefixtures("no_detectron2")
def test_import_says_where_to_get_it():
    with pytest.raises(ImportError) as raised:
        importlib.import_module("afictl.integrations.detectron2")
    assert "detectron2.readthedocs.io/en/latest/tutorials/install.html" in str(raised.value)
    assert "\n" not in str(raised.value)
