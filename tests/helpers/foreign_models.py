"""Runs and comparisons of models of other libraries on the shapes."""

from pathlib import Path

from lightning_fabric import Fabric

from afictl.comparison import compare, parse_methods
from afictl.data import load_dataset
from afictl.distributed import Runtime
from afictl.evaluation import evaluate
from afictl.presets import Preset
from afictl.run_records import read_metrics
from afictl.visualization import write_side_by_side
from afictl.weights import load_detector


def assert_evaluates_as_in_training(run: Path, data: Path) -> None:
    """The detector of ``run`` has the classes of the shapes and the accuracies that the training logged at its end."""
    loaded = load_detector(run)
    assert loaded.classes == ("disc", "square", "triangle", "cross")
    metrics = evaluate(loaded.detector, load_dataset(data, "val"), Runtime(workers=0), classes=loaded.classes).metrics
    assert metrics == {key: value for key, value in read_metrics(run)[-1].items() if key in metrics}
    assert "mask/AP" in metrics


def assert_compares_and_draws(fabric: Fabric, preset: Preset, data: Path, folder: Path) -> None:
    """Nearest and bicubic interpolation are compared at equal cost, and a run's detections are drawn."""
    comparison = compare(fabric, preset, data, parse_methods("nearest,bicubic"), folder / "runs").comparison
    assert [method.name for method in comparison.methods] == ["nearest", "bicubic"]
    nearest, bicubic = (method.cost for method in comparison.methods)
    assert nearest.parameters == bicubic.parameters > 10e6
    assert nearest.multiply_adds > 1e8
    run = folder / "runs" / "nearest" / "seed0"
    (file,) = write_side_by_side({"a": run}, load_dataset(data, "val"), folder / "pictures")[:1]
    assert file.is_file()
