import pytest

from afictl import AFInterpolator, load_preset
from afictl.comparison import Method
from tests.helpers.tiny_runs import SMALL


@pytest.fixture(scope="session")
def preset():
    """A Faster R-CNN that trains in a second."""
    return load_preset("faster-rcnn-r18-fpn-tiny", [*SMALL, "train.steps=2", "train.eval_every=2"])


@pytest.fixture(scope="session")
def methods(tmp_path_factory):
    file = tmp_path_factory.mktemp("interpolator") / "interpolator.safetensors"
    AFInterpolator(16, blocks=1, growth=4).save(file)
    return [Method("nearest", "nearest"), Method("afi", str(file))]
