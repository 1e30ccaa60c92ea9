import pytest

from afictl import load_preset
from tests.helpers.tiny_runs import SMALL


@pytest.fixture
def preset():
    """A Mask R-CNN that trains in a second."""
    return load_preset("mask-rcnn-r18-fpn-tiny", SMALL)
