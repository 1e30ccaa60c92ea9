"""``compare --spread`` on a Ray cluster of several nodes, all on this machine."""

import os
import signal
import time
from pathlib import Path

import pytest

from afictl import load_preset
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.specification import ExperimentSettings, parse_methods
from afictl.weights import read_checkpoint
from tests.helpers.program import program
from tests.helpers.tiny_runs import SMALL, set_flags

cluster_utils = pytest.importorskip("ray.cluster_utils")

METHODS = "nearest,bilinear,bicubic,afi"
SEEDS = (0, 1, 2)
STEPS = 12
SETTINGS = (*SMALL, f"train.steps={STEPS}", f"train.eval_every={STEPS}", "train.checkpoint_every=4")


@pytest.fixture
def cluster(monkeypatch):
    """A head without CPUs, and two nodes with one each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def descendants(process):
    """Ids of the processes that ``process`` has started, and so on."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # has ended
                continue
    ids = [process]
    for parent in ids:
        ids += [child for child, its_parent in parents.items() if its_parent == parent]
    return ids[1:]


def run_on(node):
    """Folder of the run that ``node`` trains; None for none."""
    for process in descendants(raylet_of(node)):
        try:
            output = Path(os.readlink(f"/proc/{process}/fd/1"))
        except OSError:  # has ended
            continue
        if output.name.startswith("seed"):
            return output.with_suffix("")
    return None


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


def lose(cluster, node):
    """End all processes of a node at once, also those of trainings, as when a machine loses its power."""
    for process in [raylet_of(node), *descendants(raylet_of(node))]:
        os.kill(process, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("one_thread")
def test_the_run_of_a_lost_node_continues_on_the_other_one(cluster, fabric, shapes_dir, tmp_path):
    """Four methods and three seeds; the results are those of one process, bit for bit."""
    preset = load_preset("faster-rcnn-r18-fpn-tiny", [item for item in SETTINGS if not item.startswith("interpolator")])
    expected = ExperimentSettings(preset, shapes_dir, tmp_path / "a", tuple(parse_methods(METHODS)), SEEDS)
    assert train_experiment(fabric, expected) == {}

    output, node, lost_run = tmp_path / "b", cluster.list_all_nodes()[1], None
    words = ["compare", "--preset", "faster-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--interpolators", METHODS]
    words += [*set_flags(SETTINGS), "--seeds", len(SEEDS), "--output", output, "--spread", "--ray", cluster.address]
    with program(words, tmp_path / "output.txt", PYTHONUNBUFFERED="1") as command:
        while not lost_run:
            time.sleep(0.05)
            assert os.path.exists(f"/proc/{command.pid}"), (tmp_path / "output.txt").read_text()
            if any(output.glob("*/seed*/result.json")) and (run := run_on(node)) and (run / "state.pt").is_file():
                lost_run = run
        lose(cluster, node)
        while len(list(output.glob("*/seed*/result.json"))) < len(expected.runs()):
            time.sleep(0.5)
            assert os.path.exists(f"/proc/{command.pid}"), (tmp_path / "output.txt").read_text()
        code, text = command.end()
    print(text)
    assert code == 0, text
    assert "Traceback" not in text
    assert "is lost, 1 left" in text
    assert "it continues from its saved state" in text
    assert "resumed at step" in lost_run.with_suffix(".txt").read_text()
    for run in expected.runs():
        folders = (run.folder, output / run.method / run.folder.name)
        weights, reference = (read_checkpoint(folder / "last.safetensors").tensors for folder in folders)
        assert all(weights[name].equal(reference[name]) for name in reference)
        assert len({(folder / "predictions.json").read_bytes() for folder in folders}) == 1
    print(f"lost: the node of {lost_run.relative_to(output)}; {len(expected.runs())} runs equal those of one process")
