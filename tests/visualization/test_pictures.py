"""Selection of images, and names of images and runs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from afictl.data import load_dataset
from afictl.data.shapes import make_shapes
from afictl.errors import UserError
from afictl.visualization import dataset_pictures, file_pictures, run_names


def test_pictures_of_a_dataset_have_ground_truth(tmp_path):
    index = load_dataset(make_shapes(tmp_path / "data", train=1, val=3, size=96), "val")
    pictures = dataset_pictures(index, limit=2)
    assert [picture.name for picture in pictures] == [str(image_id) for image_id in index.image_ids[:2]]
    truth = pictures[0].ground_truth()
    assert pictures[0].read().shape == (3, 96, 96)
    assert truth["masks"].shape == (len(truth["boxes"]), 96, 96)
    for mask, box in zip(truth["masks"], truth["boxes"], strict=True):
        rows, columns = mask.nonzero().unbind(1)
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        torch.testing.assert_close(corners.float(), box, atol=1.0, rtol=0)


def test_images_without_annotations_have_no_ground_truth(tmp_path):
    """As in image_info_test-dev2017.json: no annotations, which does not mean no objects."""
    index = load_dataset(make_shapes(tmp_path / "data", train=1, val=1, size=96), "val")
    content = json.loads(index.annotation_file.read_text())
    listed = index.annotation_file.with_name("image_info_test2017.json")
    listed.write_text(json.dumps({"images": content["images"], "categories": content["categories"]}))
    index.image_dir.rename(index.image_dir.with_name("test2017"))
    (picture,) = dataset_pictures(load_dataset(tmp_path / "data", "test"))
    assert picture.read().shape == (3, 96, 96)
    assert picture.ground_truth() is None


def test_pictures_are_listed_from_files_and_folders(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (8, 6)).save(folder / name, format="PNG")
    (folder / "notes.txt").write_text("not an image")
    (folder / "more").mkdir()
    Image.new("RGB", (8, 6)).save(folder / "more" / "c.png")
    single = tmp_path / "a.png"
    Image.new("L", (8, 6)).save(single)
    pictures = file_pictures([folder, single])
    assert [picture.name for picture in pictures] == ["a", "b", "c", "a-2"]
    assert pictures[3].read().shape == (3, 6, 8)
    assert pictures[3].ground_truth() is None


def test_wrong_paths_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.jpg"):
        file_pictures([tmp_path / "nowhere.jpg"])
    with pytest.raises(UserError, match=str(tmp_path)):
        file_pictures([tmp_path])
    (tmp_path / "broken.jpg").write_text("not an image")
    with pytest.raises(UserError, match=r"broken\.jpg"):
        file_pictures([tmp_path])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/afi", "x/nearest"], ["afi", "nearest"]),
        (["x/afi/best.safetensors", "x/nearest"], ["afi", "nearest"]),
        (["x/afi", "y/afi"], ["x/afi", "y/afi"]),
        (["x/afi", "y/afi", "x/nearest"], ["x/afi", "y/afi", "nearest"]),
        (["x/afi/seed0", "x/nearest/seed0"], ["afi/seed0", "nearest/seed0"]),
        (["x/afi/seed0", "y/afi/seed0", "x/nearest/seed0"], ["x/afi/seed0", "y/afi/seed0", "nearest/seed0"]),
        (["x/afi", "x/afi/last.safetensors"], ["afi", "afi/last"]),
        (["x/afi", "x/afi"], ["afi", "afi-2"]),
        (["x/afi", "x/afi/seed0"], ["afi", "afi/seed0"]),
        (["x/afi/seed0"], ["afi/seed0"]),
        (["x/model_final.pth", "y/model_final.pth"], ["x/model_final", "y/model_final"]),
    ],
)
def test_run_names_are_the_shortest_unique_path_suffixes(tmp_path, monkeypatch, paths, names):
    for run in ("x/afi/seed0", "x/nearest/seed0", "y/afi/seed0"):
        (tmp_path / run).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert run_names([Path(path) for path in paths]) == names


def test_titles_are_file_names(tmp_path):
    """Pictures are named by image id, from which nobody finds the file."""
    data = make_shapes(tmp_path / "data", train=1, val=2, size=96)
    index = load_dataset(data, "val")
    titles = [f"{name} (image {k})" for name, k in zip(index.file_names, index.image_ids, strict=True)]
    assert [picture.title for picture in dataset_pictures(index)] == titles
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(folder / "more" / "c.png")
    assert [picture.title for picture in file_pictures([folder, folder / "more" / "c.png"])] == ["more/c.png", "c.png"]
