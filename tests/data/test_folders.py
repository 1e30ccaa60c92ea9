"""Paths of the files of a dataset."""

from afictl.data import folders
from afictl.data.folders import absent_files


def test_absent_files_are_returned_in_order(tmp_path):
    for name in ("a.jpg", "in/b.jpg", "in/deep/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    existing = ["a.jpg", "in/b.jpg", "in/deep/c.jpg", "in/../a.jpg", "link.jpg", str(tmp_path / "a.jpg")]
    absent = ["z.jpg", "in/a.jpg", "none/a.jpg", "folder.jpg", "broken.jpg", "/a.jpg"]
    assert absent_files(tmp_path, existing) == []
    assert absent_files(tmp_path, [name for pair in zip(existing, absent, strict=True) for name in pair]) == absent
    assert absent_files(tmp_path / "nowhere", ["a.jpg"]) == ["a.jpg"]


def test_absent_files_in_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.os, "scandir", refuse)
    (tmp_path / "a.jpg").touch()
    assert absent_files(tmp_path, ["a.jpg", "b.jpg"]) == ["b.jpg"]
