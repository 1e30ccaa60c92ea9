import pytest

from afictl import load_preset
from tests.helpers.pseudo_files import write_pseudo_file
from tests.helpers.tiny_runs import SMALL


@pytest.fixture
def preset():
    """A Mask R-CNN that trains in a second."""
    return load_preset("mask-rcnn-r18-fpn-tiny", SMALL)


@pytest.fixture(scope="session")
def pseudo_file(tmp_path_factory, shapes_dir):
    """The held-out shapes as pseudo-labelled images."""
    return write_pseudo_file(tmp_path_factory.mktemp("pseudo") / "pseudo.json", shapes_dir)
