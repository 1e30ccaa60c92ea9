import pytest

from afictl import AFInterpolator, load_preset
from afictl.comparison import Method
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings
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


@pytest.fixture
def settings(preset, methods, shapes_dir, tmp_path):
    """An experiment of two methods and one seed, of which nothing is trained."""
    return ExperimentSettings(preset, shapes_dir, tmp_path / "out", tuple(methods))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, fabric, preset, methods, shapes_dir):
    """A finished experiment of two methods and two seeds; its folder must not be written to."""
    output = tmp_path_factory.mktemp("experiment") / "out"
    settings = ExperimentSettings(preset, shapes_dir, output, tuple(methods), (0, 1))
    assert train_experiment(fabric, settings) == {}
    return settings
