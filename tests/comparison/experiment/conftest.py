import pytest

from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings


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
