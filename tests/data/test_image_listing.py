"""Check of image files before they are read."""

import json
import os
import socket
from itertools import cycle

import numpy as np
import pytest
from PIL import Image

from afictl.data import image_listing, load_dataset
from afictl.data.image_listing import image_faults, orientation_note, require_images
from afictl.errors import UserError

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@pytest.fixture
def folder(tmp_path):
    """A folder with images, links to them, and files that are none."""
    images = tmp_path / "images"
    (images / "in").mkdir(parents=True)
    for name in ("a.png", "in/b.png"):
        Image.new("RGB", (4, 4)).save(images / name)
    (images / "link.png").symlink_to("a.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "elsewhere" / "c.png")
    (images / "disk").symlink_to(tmp_path / "elsewhere")
    (images / "empty.jpg").touch()
    (images / "lfs.jpg").write_text(LFS_POINTER)
    (images / "phone.jpg").write_bytes(HEIC)
    (images / "large.jpg").write_bytes(HEIC.ljust(5000, b"\1"))
    (images / "text.jpg").write_text("hello")
    (images / "folder.jpg").mkdir()
    (images / "broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(images / "pipe.jpg")
    (images / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(images / "socket.jpg"))  # absolute paths of sockets are limited to 107 bytes
    return images


@pytest.mark.timeout(30)
def test_every_fault_of_a_file_is_told_without_opening_pipes_and_devices(folder):
    sound = ["a.png", "in/b.png", "link.png", "in/../a.png", "disk/c.png", str(folder / "a.png")]
    facts = {
        "z.jpg": "does not exist",
        "none/a.jpg": "does not exist",
        "empty.jpg": "an empty file",
        "lfs.jpg": "git lfs pull",
        "phone.jpg": "a HEIC file",
        "large.jpg": "a HEIC file",
        "text.jpg": "no image",
        "folder.jpg": "a folder",
        "broken.jpg": "a link to nowhere.jpg, which does not exist",
        "pipe.jpg": "a named pipe",
        "device.jpg": "a device",
        "socket.jpg": "a socket",
        "../elsewhere/c.png": "outside",
        str(folder.parent / "elsewhere" / "c.png"): "outside",
    }
    faults = image_faults(folder, [name for pair in zip(cycle(sound), facts, strict=False) for name in pair])
    assert list(faults) == list(facts)
    for name, fact in facts.items():
        assert fact in faults[name], name
    assert image_faults(folder / "nowhere", ["a.png"]) == {"a.png": "does not exist"}


def test_headers_of_a_large_dataset_are_sampled(tmp_path, monkeypatch):
    """By their names, HEIC files are recognised outside the sample, too."""
    monkeypatch.setattr(image_listing, "_MAX_HEADERS", 2)
    names = ["0.jpg", "1.jpg", "2.jpg", "3.heic"]
    for name in names:
        (tmp_path / name).write_bytes(HEIC.ljust(5000, b"\1"))
    assert list(image_faults(tmp_path, names)) == ["0.jpg", "2.jpg", "3.heic"]


def test_files_in_a_folder_that_cannot_be_listed(folder, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_listing.os, "scandir", refuse)
    assert image_faults(folder, ["a.png", "b.png"]) == {"b.png": "does not exist"}


def test_error_names_the_annotation_file_the_count_and_the_first_files(write_coco):
    data = write_coco([{}], images=[{}] * 6)
    for k in (2, 3, 4):
        (data / "val" / f"{k}.png").unlink()
    (data / "val" / "5.png").write_text(LFS_POINTER)
    dataset = load_dataset(data, "val")
    with pytest.raises(UserError) as error:
        require_images(dataset)
    for fact in ("instances_val.json: 4 of its 6 images", "2.png does not exist", "4.png does not exist", "data check"):
        assert fact in str(error.value)
    assert "5.png" not in str(error.value)
    require_images(dataset, [0, 5])


def test_file_name_outside_the_image_folder_is_never_read(write_coco):
    data = write_coco([{}], images=[{}, {}])
    Image.new("RGB", (64, 48)).save(data / "secret.png")
    file = data / "annotations" / "instances_val.json"
    for name in ("../secret.png", str(data / "secret.png"), "sub/../../secret.png"):
        content = json.loads(file.read_text())
        content["images"][1]["file_name"] = name
        file.write_text(json.dumps(content))
        dataset = load_dataset(data, "val")
        with pytest.raises(UserError, match=r"instances_val.json: image 2: .*secret\.png.* outside the image folder"):
            dataset.image_path(1)
        with pytest.raises(UserError, match=r"1 of its 2 images .* is outside the folder"):
            require_images(dataset)


def test_orientation_that_keeps_the_size_is_noted(write_coco):
    data = write_coco([{}], images=[{}, {}, {"width": 48}])
    assert orientation_note(load_dataset(data, "val")) == ""
    tags = Image.Exif()
    for name, orientation in (("2.png", 6), ("3.png", 6)):
        tags[0x0112] = orientation
        size = (64, 48) if name == "2.png" else (48, 48)
        Image.fromarray(np.zeros((*size[::-1], 3), dtype=np.uint8)).save(data / "val" / name, exif=tags)
    assert "1 of 3 sampled images" in orientation_note(load_dataset(data, "val"))
    assert "3.png" in orientation_note(load_dataset(data, "val"))
