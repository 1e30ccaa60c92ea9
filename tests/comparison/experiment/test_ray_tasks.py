"""Training as tasks of Ray, on this machine; ``tests/scenarios/test_ray_cluster.py`` has several nodes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from afictl import UserError, __version__
from afictl.comparison import Method
from afictl.comparison.experiment import ray_cluster, ray_node
from afictl.comparison.experiment.execution import train_experiment
from afictl.comparison.experiment.ray_cluster import Place, Share, equal_share, training_nodes
from afictl.comparison.experiment.ray_tasks import train_as_tasks
from afictl.comparison.experiment.specification import ExperimentSettings
from afictl.run_records import read_config
from afictl.weights import read_checkpoint
from tests.helpers.program import SECONDS, program
from tests.helpers.tiny_runs import SMALL, set_flags

pytest.importorskip("ray")


def make_node(cpus, gpus=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}}


def test_parallel_runs_equal_sequential_runs_also_beside_one_that_fails(
    fabric, preset, shapes_dir, tmp_path, monkeypatch, capfd
):
    folders = []
    make_folder = ray_cluster.tempfile.mkdtemp
    monkeypatch.setattr(
        ray_cluster.tempfile, "mkdtemp", lambda **options: folders.append(make_folder(**options)) or folders[-1]
    )
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    nearest = Method("nearest", "nearest")
    sequential = ExperimentSettings(preset, shapes_dir, tmp_path / "a", (nearest,))
    assert train_experiment(fabric, sequential) == {}
    capfd.readouterr()
    concurrent = ExperimentSettings(preset, shapes_dir, tmp_path / "b", (nearest, Method("x", "absent")))
    failures = train_as_tasks(Place("2"), concurrent, concurrent.runs(), "32-true", print)
    assert list(failures) == ["x seed 0"]
    assert "absent" in failures["x seed 0"]
    run, expected = concurrent.runs()[0].folder, sequential.runs()[0].folder
    assert (run / "result.json").is_file()
    tensors, reference = (read_checkpoint(folder / "last.safetensors").tensors for folder in (run, expected))
    assert all(tensors[name].equal(reference[name]) for name in reference)
    assert "step 2/2" in run.with_name("seed0.txt").read_text()
    assert read_config(run / "config.yaml").hardware.threads == 1
    text, errors = capfd.readouterr()
    assert "2 runs at a time, threads of each: 1" in text
    assert "nearest seed 0: done in" in text
    assert "step 2/2" not in text
    assert errors == ""
    assert not any(map(os.path.exists, folders))
    assert not list((tmp_path / "b").glob(".*"))


def test_nothing_is_started_for_no_runs(monkeypatch, settings):
    monkeypatch.setattr(Place, "check", lambda self: pytest.fail("connects"))
    assert train_as_tasks(Place(), settings, [], "32-true", print) == {}


@pytest.mark.parametrize(
    ("nodes", "devices", "share", "threads", "runs"),
    [
        ([make_node(8), make_node(8)], "auto", Share(8.0, 0), 8, [1, 1]),
        ([make_node(8)], "3", Share(2.6666, 0), 2, [3]),  # without a fourth run on what is left
        ([make_node(2)], "4", Share(0.5, 0), 1, [4]),
        ([make_node(8), make_node(16)], "2", Share(4.0, 0), 4, [2, 4]),  # equal threads of all runs
        ([make_node(16, 4)], "auto", Share(4.0, 1), 4, [4]),
        ([make_node(16, 4), make_node(16, 2)], "2", Share(8.0, 1), 8, [2, 2]),
        ([make_node(64, 4), make_node(8, 4)], "auto", Share(2.0, 1), 2, [4, 4]),
    ],
)
def test_runs_have_equal_shares_of_the_nodes(nodes, devices, share, threads, runs):
    result = equal_share(nodes, devices)
    assert (result, result.threads, [result.runs_on(node) for node in nodes]) == (share, threads, runs)


def test_nodes_without_cpus_or_without_the_gpus_of_others_train_nothing():
    class Ray:
        def nodes(self):
            return nodes

    nodes = [make_node(0), make_node(8), make_node(8, alive=False)]
    assert training_nodes(Ray()) == nodes[1:2]
    nodes.append(make_node(8, 1))
    assert training_nodes(Ray()) == nodes[3:]
    with pytest.raises(UserError, match="no node"):
        equal_share([], "auto")


@pytest.mark.parametrize("devices", ["0", "x", "5"])
def test_unavailable_devices_are_rejected(monkeypatch, devices):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(UserError, match=f"--devices {devices}"):
        Place(devices).check()


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--spread .*afictl\[ray\]"):
        Place().check()


def test_an_address_without_a_cluster_is_rejected():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "head", "ray://head:10001"):
        with pytest.raises(UserError, match=f"--ray {address}: "):
            Place(address=address).check()


@pytest.fixture
def requirements(settings, monkeypatch):
    monkeypatch.setattr(ray_node, "installed_versions", lambda: {"afictl": "1.0", "torch": "2.0"})
    with ray_cluster.node_requirements(settings) as requirements:
        yield requirements


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"versions": {"torch": "3.0"}}, "torch is 2.0, and 3.0 on"),
        ({"token": "other"}, "/out: not the folder of the command"),
        ({"token_file": "/absent/out/file"}, "/absent/out: not the folder of the command"),
        ({"inputs": ["/absent/data"]}, "/absent/data: absent"),
    ],
)
def test_a_node_names_what_it_lacks(requirements, change, message):
    assert re.search(message, ray_node.find_mismatch(requirements | change))


def test_versions_are_those_of_a_new_process(monkeypatch):
    assert ray_node.installed_versions() == {"afictl": __version__, "torch": version("torch")}
    monkeypatch.setattr(ray_node, "_VERSIONS", "import absent_package")
    with pytest.raises(ImportError, match="No module named 'absent_package'"):
        ray_node.installed_versions()


def test_a_run_that_a_signal_stops_is_told_by_an_exception(requirements, monkeypatch, tmp_path):
    """The command begins it again on another node after this exception alone."""
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **options: start([sys.executable, "-c", "raise SystemExit(130)"], **options)
    )
    with pytest.raises(InterruptedError):
        ray_node.train_on_node({"folder": str(tmp_path)}, str(tmp_path / "log.txt"), 1, requirements)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_runs_of_an_interrupted_comparison_save_their_state(shapes_dir, tmp_path, number, code):
    """SIGKILL leaves the comparison no time to interrupt them."""
    words = ["compare", "--preset", "faster-rcnn-r18-fpn-tiny", "--data", shapes_dir, "--output", tmp_path / "out"]
    words += set_flags([*SMALL, "train.steps=4000", "train.eval_every=4000"])
    words += ["--interpolators", "nearest,bilinear", "--devices", "2", "--spread"]
    runs = [tmp_path / "out" / name / "seed0" for name in ("nearest", "bilinear")]
    with program(words, tmp_path / "output.txt") as command:
        for run in runs:
            command.wait_for(run / "metrics.jsonl")
        os.kill(command.pid, number)
        assert command.end()[0] == code
    deadline = time.monotonic() + SECONDS
    while not all((run / "state.pt").is_file() for run in runs):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    text = (tmp_path / "output.txt").read_text()
    assert ("waiting for 2 runs to save their state" in text) == (number != signal.SIGKILL)
    assert "Traceback" not in text
