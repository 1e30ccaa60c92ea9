"""Writing to a full disk: one error that names the file; an earlier file stays."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from afictl.data.formats.coco_writer import CocoWriter
from afictl.errors import UserError, format_error
from afictl.evaluation.prediction_writer import ResultsFile
from afictl.files import (
    atomic_folder,
    atomic_write,
    discard_special,
    name_file_in_errors,
    open_to_append,
    remove_temporary_files,
    require_no_link,
    temporary_path,
    write_text,
)
from afictl.folder_lock import locked_folder
from afictl.run_folder import is_vacant
from afictl.visualization.evaluation_plots import plot_confusion, plot_precision_recall
from afictl.visualization.figure import Figure, Panel
from afictl.visualization.figure_files import write_figures
from tests.helpers.full_disk import fill_disk_for, killed_draft, needs_dev_full


def torch_file(path):
    with atomic_write(path) as draft, draft.open("wb") as file:
        torch.save({"weights": torch.zeros(1000)}, file)


def results(path):
    file = ResultsFile(path)
    try:
        file.add(b'{"score": 1}')
        file.finish()
    finally:
        file.discard()


def annotations(path):
    with CocoWriter(path) as writer:
        writer.add({"id": 1}, [{"id": 1}])
        writer.finish(info={})


def figure(path, form):
    picture = Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8))
    write_figures([Figure(path.stem, [Panel(picture, "cat")])], path.parent, path.stem, form=form)


WRITERS = {
    "config.yaml": lambda path: write_text(path, "text"),
    "state.pt": torch_file,
    "predictions.json": results,
    "pseudo.json": annotations,
    "image.png": lambda path: figure(path, "png"),
    "detections.html": lambda path: figure(path, "html"),
    "confusion.png": lambda path: plot_confusion(np.eye(2, dtype=int), ["cat"], path),
    "pr_curves.png": lambda path: plot_precision_recall({"box": np.ones((10, 101, 1, 4))}, ["cat"], path),
}


@needs_dev_full
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_with_the_file_and_the_earlier_file_stays(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    fill_disk_for(path)
    with pytest.raises(OSError, match="No space left") as error:
        WRITERS[name](path)
    assert format_error(error.value).startswith(f"{path}: No space left on device")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_text() == "old"
    WRITERS[name](path)  # there is space again
    assert {file.name for file in tmp_path.iterdir()} - {f".afictl-{path.stem}-{path.suffix[1:]}"} == {name}
    assert path.read_bytes() != b"old"


@needs_dev_full
def test_a_device_is_written_directly():
    with pytest.raises(OSError, match="/dev/full"):
        write_text(Path("/dev/full"), "text")
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    ("cause", "start"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "there: No space left on device; "),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "draft"), "there: Disk quota exceeded; "),
        (OSError(errno.EIO, "Input/output error"), "there: Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "an image"), "an image: Permission denied"),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), "there: No space left on device; "),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "there: No space left on device; "),
        (RuntimeError("something else"), "something else"),
    ],
)
def test_an_error_names_its_file(cause, start):
    with pytest.raises((OSError, RuntimeError)) as error, name_file_in_errors("there"):
        raise cause
    assert format_error(error.value).startswith(start)


def test_a_parent_that_is_a_file_is_an_error_with_the_path_of_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as error:
        write_text(tmp_path / "file" / "out.json", "text")
    assert str(tmp_path / "file" / "out.json") in format_error(error.value)


def test_only_drafts_of_ended_processes_are_removed(tmp_path):
    names = ("predictions.json", "last.safetensors", "detections_test_results.zip", "image.png", "a.json.afictl-index")
    current = temporary_path(tmp_path / "predictions.json").name
    stale = [killed_draft(tmp_path / name).name for name in names]
    stale.append(Path(current).with_suffix(f".{9**30}").name)
    retained = [current, current.replace("json.", "json.another-"), stale[0].removeprefix(".")]
    retained += ["predictions.json", ".notes.7", ".json.x"]
    for name in stale + retained:
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(retained)
    remove_temporary_files(tmp_path / "nowhere")


def test_a_folder_draft_of_a_killed_process_is_no_content_and_is_removed_by_the_next(tmp_path):
    names = ("data", "other", "data.x")
    drafts = {name: killed_draft(tmp_path / name) for name in names}
    for draft in drafts.values():
        draft.mkdir()
        (draft / "image.jpg").touch()
    assert is_vacant(tmp_path)
    with atomic_folder(tmp_path / "data") as draft:
        (draft / "image.jpg").touch()
        assert is_vacant(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"data", drafts["other"].name, drafts["data.x"].name}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["image.jpg"]
    assert not is_vacant(tmp_path)


def test_the_folder_to_work_in_may_be_written(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with atomic_folder(Path()) as draft:
        (draft / "image.jpg").touch()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg")] == [Path("here/image.jpg")]


def test_only_drafts_of_a_named_file_are_removed(tmp_path):
    drafts = [killed_draft(tmp_path / name) for name in ("a.json", "b.json", "a.json.json", "ba.json")]
    for draft in drafts:
        draft.touch()
    remove_temporary_files(tmp_path, name="a.json")
    assert [draft.exists() for draft in drafts] == [False, True, True, True]


@pytest.mark.parametrize("name", [*sorted(WRITERS.keys() - {"pseudo.json"}), ".afictl-image-png", "log.txt", ".lock"])
def test_link_at_an_output_place_is_replaced_and_its_target_kept(tmp_path, name):
    target, folder = tmp_path / "private.txt", tmp_path / "run"
    target.write_text("private")
    folder.mkdir()
    (folder / name).symlink_to(target)
    if name == "log.txt":
        with open_to_append(folder / name) as file:
            file.write("line")
    elif name == ".lock":
        with locked_folder(folder):
            assert not (folder / name).is_symlink()
        (folder / name).touch()
    else:
        WRITERS.get(name, WRITERS["image.png"])(folder / (name if name in WRITERS else "image.png"))
    assert target.read_text() == "private"
    assert (folder / name).is_file()
    assert not (folder / name).is_symlink()


@pytest.mark.timeout(30)
def test_pipe_at_an_output_place_is_replaced_and_not_waited_for(tmp_path):
    for name in ("a.json", "log.txt"):
        os.mkfifo(tmp_path / name)
    write_text(tmp_path / "a.json", "text")
    with open_to_append(tmp_path / "log.txt") as file:
        file.write("text")
    assert [(tmp_path / name).read_text() for name in ("a.json", "log.txt")] == ["text", "text"]


def test_link_that_the_user_names_is_followed(tmp_path):
    (tmp_path / "a.json").symlink_to("target.json")
    write_text(tmp_path / "a.json", "text", named_by_user=True)
    assert (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "target.json").read_text() == "text"


def test_results_are_not_written_through_a_linked_folder(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "eval").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"run/eval is a link to .*remove it"):
        require_no_link(tmp_path / "run" / "eval" / "bbox", tmp_path / "run")
    require_no_link(tmp_path / "run" / "detections", tmp_path / "run")


def test_links_and_pipes_in_the_place_of_a_file_are_removed_and_devices_are_not(tmp_path):
    target = tmp_path / "target"
    target.touch()
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "target", "absent"):
        discard_special(tmp_path / name)
    discard_special(Path(os.devnull))
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert Path(os.devnull).is_char_device()
