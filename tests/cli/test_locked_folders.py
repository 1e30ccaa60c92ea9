"""Every command but a ``compare`` that trains ends at once where another process writes to its folder."""

import platform

import pytest

from tests.helpers.locks import locking_process
from tests.helpers.tiny_runs import set_flags

TINY = ("--preset", "faster-rcnn-r18-fpn-tiny", *set_flags())
NAMES = ("run", "pretrained", "measured", "demo")


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A folder in which another process has locked the folders ``NAMES``; with its process id."""
    folder = tmp_path_factory.mktemp("locked")
    with locking_process(*(folder / name for name in NAMES)) as process:
        yield folder, process.pid


@pytest.mark.parametrize(
    ("folder", "output", "words"),
    [
        ("run", "run", ["finetune", *TINY, "--data", "DATA"]),
        ("run", "run", ["finetune", *TINY, "--data", "DATA", "--resume", "auto"]),
        ("pretrained", "pretrained", ["pretrain", "--guide", "GUIDE"]),
        ("measured", "measured", ["compare", "--runs", "GUIDE"]),
        ("measured", "measured", ["compare", *TINY, "--only-cost"]),
        ("demo", "demo", ["demo"]),
    ],
)
def test_the_second_command_ends_at_once(afictl, locked, guide_run, shapes_dir, folder, output, words):
    parent, process = locked
    paths = {"DATA": shapes_dir, "GUIDE": guide_run}
    before = sorted((parent / output).rglob("*"))
    code, _, errors = afictl(*(paths.get(word, word) for word in words), "--output", parent / output)
    assert code == 2
    flag = "--output " if folder == output else ""
    assert errors.startswith(f"error: {flag}{parent / folder}: process {process} on {platform.node()} ")
    assert errors.count("\n") == 1
    assert sorted((parent / output).rglob("*")) == before


def test_a_lock_of_a_running_process_is_not_removed(afictl, locked, shapes_dir):
    parent, process = locked
    words = ["finetune", *TINY, "--data", shapes_dir, "--output", parent / "run", "--force-unlock"]
    code, _, errors = afictl(*words)
    assert code == 2
    assert errors.startswith(f"error: --force-unlock: {parent / 'run'}: process {process} on {platform.node()} ")
