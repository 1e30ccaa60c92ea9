"""README and docs: their commands and Python examples run as they are written, their flags and links exist."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import typer
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from typer.testing import CliRunner

from afictl import comparison, interpolator_kinds, list_presets
from afictl.cli.main import app
from afictl.comparison import compare
from afictl.data import make_shapes
from afictl.extras import EXTRAS
from tests.helpers.tiny_runs import SMALL, STAGES, drop_states, set_flags

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
LIBRARIES = ("torchvision:", "transformers:")
ONE_STEP = [*SMALL, *(f"{stage}.{key}=1" for stage in STAGES for key in ("steps", "eval_every"))]
OTHER_MODEL = ["train.steps=1", "train.batch_size=2", "input.min_sizes=[64]", "input.test_size=64", "loader.workers=0"]
FEW_REGIONS = ["detector.proposals_train=20", "detector.proposals_test=20", "detector.roi_batch=16"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXTS[page], re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The arguments of every ``afictl`` command of a page."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("afictl ")]


def quick(arguments: list[str]) -> list[str]:
    """Further arguments that make a command finish in seconds."""
    command = arguments[0]
    if command == "pseudo-label":  # a detector of one step has no confident detection
        return ["--threshold", "0"]
    if command == "convert":  # a Faster R-CNN of torchvision
        return set_flags(["input.test_size=64", *FEW_REGIONS])
    if command in ("finetune", "compare") and "--runs" not in arguments:
        if not any(word.startswith(LIBRARIES) for word in arguments):
            return set_flags(ONE_STEP)
        is_r_cnn = any(re.match(r"torchvision:\w+rcnn", word) for word in arguments)
        return set_flags([*OTHER_MODEL, *FEW_REGIONS] if is_r_cnn else OTHER_MODEL)
    return []


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=6, val=2, size=64)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, data):
    """A folder in which README's commands have run; the other pages build on their runs."""
    folder = tmp_path_factory.mktemp("documentation")
    make_shapes(folder / "unlabelled", train=2, val=1, size=64, seed=1)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    torch.save(model.state_dict(), folder / "model.pth")
    if find_spec("transformers"):
        from tests.helpers.transformers_models import rt_detr

        rt_detr().save_pretrained(folder / "rtdetr")
    run_page("README.md", folder, data)
    return folder


def compare_in_process(*arguments, train_runs, **options):
    """``compare`` whose runs are trained in this process, as a new process for each takes seconds to start."""
    return compare(*arguments, **options)


def run_page(page: str, folder: Path, data: Path) -> None:
    paths = {"DIR": str(data), "FOLDER": str(folder / "unlabelled" / "train2017")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(comparison, "compare", compare_in_process)
        for arguments in commands(page):
            arguments = [re.sub("DIR|FOLDER", lambda name: paths[name[0]], word) for word in arguments]
            result = CliRunner().invoke(app, [*arguments, *quick(arguments)], catch_exceptions=False)
            assert result.exit_code == 0, f"{arguments}: {result.output}"
            drop_states(folder, keep=folder / "runs" / "afi")


def test_readme_commands_write_their_results(workspace):
    assert (workspace / "runs" / "afi" / "interpolator.safetensors").is_file()
    assert (workspace / "runs" / "with-afi" / "eval" / "metrics.json").is_file()
    assert list((workspace / "runs" / "with-nearest" / "detections").glob("*.png"))
    assert (workspace / "runs" / "compare-faster-rcnn-r18-fpn-tiny" / "comparison.csv").is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md" and commands(page)])
def test_commands_of_the_page_run(page, workspace, data):
    run_page(page, workspace, data)


SET_UP = ("python3 -m venv", ".venv/bin/")
"""Lines of README and CONTRIBUTING that make an environment, or run these tests in it."""


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_a_bash_block_is_a_command_that_runs(page):
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    others = [line for line in lines if line and not line.startswith(("afictl ", "# ", *SET_UP))]
    assert not others  # what cannot run here, such as a launcher of a cluster, is a block of ``sh``


@pytest.mark.parametrize(
    ("page", "number"), [(page, number) for page in PAGES for number in range(len(blocks(page, "python")))]
)
def test_python_example_runs(page, number, tmp_path, monkeypatch):
    source = blocks(page, "python")[number]
    for package in ("detectron2", "transformers", "segmentation_models_pytorch"):
        if f"from {package}" in source or f"import {package}" in source:
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    exec(source, {"__name__": "example"})


def flags_of(command):
    """Every flag of a command and its subcommands."""
    for child in getattr(command, "commands", {}).values():
        yield from flags_of(child)
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


@pytest.mark.parametrize("page", PAGES)
def test_flags_of_the_page_exist(page):
    other_tools = (
        r"pytest|ruff|benchmarks|--index-url|#SBATCH|--signal=|--max-restarts|--shm-size|--shutdown-timeout"
        r"|--signals-to-handle|ray start"
    )
    lines = [line for line in TEXTS[page].splitlines() if not re.search(other_tools, line)]
    lines = [re.sub(r"\b(torchrun|srun|mpirun) .*? (?=afictl )", "", line) for line in lines]  # a launcher's own flags
    assert set(FLAG.findall("\n".join(lines))) <= {*flags_of(typer.main.get_command(app)), "--help"}


@pytest.mark.parametrize("page", PAGES)
def test_links_of_the_page_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES)
def test_presets_of_the_page_exist(page):
    assert set(re.findall(r"--preset ([a-z][\w-]+)(?![\w:-])", TEXTS[page])) <= set(list_presets())


def test_table_of_kinds_is_complete():
    row = next(line for line in TEXTS["docs/training.md"].splitlines() if line.startswith("| interpolator |"))
    assert sorted(re.findall(r"`([a-z-]+)`", row.split("|")[2])) == sorted(interpolator_kinds())


def test_table_of_extras_is_complete():
    names = {line.split("|")[1].strip(" `") for line in TEXTS["docs/installation.md"].splitlines() if "| `" in line}
    assert names >= {*EXTRAS, "all"}


def test_readme_has_at_most_900_words():
    assert len(TEXTS["README.md"].split()) <= 900
