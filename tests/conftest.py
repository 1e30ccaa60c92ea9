import os
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as processors: more threads would only compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generated dataset, with masks; not to be written to."""
    from afictl.data import make_shapes

    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=14, val=6, size=96)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout, where there is any."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def fabric():
    from lightning_fabric import Fabric

    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture(scope="session")
def guide_run(tmp_path_factory: pytest.TempPathFactory, fabric, shapes_dir: Path) -> Path:
    """A run of four steps of a Mask R-CNN; not to be written to."""
    from afictl import load_preset
    from afictl.training import InitialWeights, finetune
    from tests.helpers.tiny_runs import SMALL

    folder = tmp_path_factory.mktemp("runs") / "guide"
    finetune(fabric, load_preset("mask-rcnn-r18-fpn-tiny", SMALL), shapes_dir, folder, InitialWeights("nearest"))
    return folder


@pytest.fixture
def afictl(monkeypatch, capsys):
    """A function that runs the program in this process and gives exit code, stdout and stderr."""
    from afictl.cli.main import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["afictl", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, *capsys.readouterr()

    return run
