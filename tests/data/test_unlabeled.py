import shutil

import pytest

from afictl.data.folders import image_files
from afictl.data.unlabeled import without_labelled
from afictl.errors import UserError


def test_image_files_of_a_folder_and_subfolders(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("c.JPG", "b/a.png", "a.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [file.relative_to(tmp_path).as_posix() for file in image_files(tmp_path)] == ["a.webp", "b/a.png", "c.JPG"]
    for name, facts in (
        ("nowhere", "nowhere: no such folder"),
        ("c.JPG", r"c\.JPG: .*file"),
        ("folder.png", "no image"),
    ):
        with pytest.raises(UserError, match=facts):
            image_files(tmp_path / name)


def test_labelled_images_are_compared_by_their_bytes(shapes_dir, tmp_path):
    train, val = (sorted((shapes_dir / f"{split}2017").iterdir())[0] for split in ("train", "val"))
    assert train.name == val.name
    shutil.copy(val, tmp_path / "copy.jpg")  # another name
    (tmp_path / "link.jpg").symlink_to(train)
    (tmp_path / train.name).write_bytes(train.read_bytes()[:-1] + b"\0")
    shutil.copystat(train, tmp_path / train.name)  # the same name, size and time
    assert [file.name for file in without_labelled(sorted(tmp_path.iterdir()), shapes_dir)[0]] == [train.name]


def test_images_that_no_annotation_file_lists_are_not_labelled(write_coco):
    data = write_coco([{}])
    shutil.copy(data / "train" / "1.png", data / "other.png")
    with (data / "other.png").open("ab") as file:
        file.write(b"\0")
    shutil.move(data / "other.png", data / "train" / "2.png")
    assert [file.name for file in without_labelled(image_files(data / "train"), data)[0]] == ["2.png"]


def test_labelled_images_that_cannot_be_read_are_listed(shapes_dir, tmp_path):
    data = shutil.copytree(shapes_dir, tmp_path / "data")
    lost = sorted((data / "train2017").iterdir())[1]
    copy = lost.rename(tmp_path / lost.name)
    assert without_labelled([copy], data) == ([copy], [lost])


def test_folder_that_is_no_data_set_is_an_error(tmp_path):
    with pytest.raises(UserError, match=f"train annotation .*{tmp_path}"):
        without_labelled([], tmp_path)
