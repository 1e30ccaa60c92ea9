import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from afictl.cli.data import app
from afictl.data import load_dataset, read_image
from afictl.data.slice import slice_dataset
from afictl.data.tiles import Tiling
from afictl.errors import UserError


def slice_command(*words):
    return CliRunner().invoke(app, ["slice", *map(str, words)], terminal_width=200)


def records(folder, split="train"):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def test_tiles_have_the_pixels_and_objects_of_their_place(write_coco, tmp_path):
    objects = [
        {"bbox": [4, 6, 10, 10], "segmentation": None},
        {"bbox": [30, 10, 20, 20], "category_id": 2, "segmentation": None, "area": 100},
        {"bbox": [20, 5, 13, 10], "segmentation": None, "ignore": 1},
    ]
    data = write_coco(objects, images=[{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}])
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    text = json.dumps({**records(data), "annotations": [{**r, "image_id": 7} for r in records(data)["annotations"]]})
    for split in ("train", "val"):
        (data / "annotations" / f"instances_{split}.json").write_text(text)
        Image.fromarray(noise).save(data / split / "a.png")
    counts = slice_dataset(data, tmp_path / "out", Tiling(32, 0.0), min_visible=0.15)
    assert (counts["train"].images, counts["train"].tiles, counts["val"].tiles) == (1, 3, 8)
    train, val = (load_dataset(tmp_path / "out", split) for split in ("train", "val"))
    assert train.file_names == ["a_0_0.png", "a_32_0.png", "a_32_16.png"]
    assert val.file_names[:4] == ["a_0_0.png", "a_32_0.png", "a_0_16.png", "a_32_16.png"]
    assert (train.classes, train.category_ids) == (("cat", "dog"), (1, 2))
    for i, record in enumerate(records(tmp_path / "out")["images"]):
        assert (record["source_file_name"], record["source_image_id"]) == ("a.png", 7)
        left, top = record["offset"]
        crop = torch.from_numpy(noise[top : top + 32, left : left + 32]).permute(2, 0, 1)
        assert read_image(train.image_path(i), train.size_hw(i)).equal(crop)
    assert train.objects(1).boxes.tolist() == [[0, 10, 18, 30], [0, 5, 1, 15]]
    assert train.training_objects(1).labels.tolist() == [2]
    assert train.objects(1).areas.tolist()[0] == pytest.approx(90)
    assert train.objects(1).crowd.tolist() == [False, True]  # a thirteenth of the ignored object
    assert train.objects(0).crowd.tolist() == [False, True, False]  # a tenth of the dog
    assert train.training_objects(0).labels.tolist() == [1]


def test_every_complete_object_of_a_dataset_is_in_a_tile(shapes_dir, tmp_path):
    result = slice_command(shapes_dir, tmp_path / "out", "--size", 128, "--overlap", 0.5)
    assert result.exit_code == 0, result.output
    assert "val: 6 images in " in result.stdout
    assert f"dataset: {tmp_path / 'out'}" in result.stdout
    source = load_dataset(shapes_dir, "val")
    tiles = records(tmp_path / "out", "val")
    places = {image["id"]: image for image in tiles["images"]}
    for i, image_id in enumerate(source.image_ids):
        complete = {
            (*np.add(r["bbox"], [*places[r["image_id"]]["offset"], 0, 0]).tolist(), r["area"])
            for r in tiles["annotations"]
            if places[r["image_id"]]["source_image_id"] == image_id
        }
        rows = source.objects(i)
        for box, area in zip(rows.boxes.tolist(), rows.areas.tolist(), strict=True):
            assert (box[0], box[1], box[2] - box[0], box[3] - box[1], area) in complete
    assert load_dataset(tmp_path / "out", "train").has_masks
    assert all(image["file_name"].endswith(".jpg") for image in tiles["images"])


def test_names_that_differ_in_suffix_or_case_alone_are_kept_apart(write_coco, tmp_path):
    names = ["x/a.png", "x/a.bmp", "x/A.png"]
    data = write_coco([{}], images=[{"file_name": name.replace("/", "")} for name in names])
    for split in ("train", "val"):
        (data / split / "x").mkdir()
        contents = records(data, split)
        for image, name in zip(contents["images"], names, strict=True):
            (data / split / image["file_name"]).rename(data / split / name)
            image["file_name"] = name
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(contents))
    slice_dataset(data, tmp_path / "out", Tiling(64))
    assert load_dataset(tmp_path / "out", "val").file_names == ["x/a_0_0.png", "x/a_2_0_0.png", "x/A_3_0_0.png"]
    assert len(list((tmp_path / "out" / "val" / "x").iterdir())) == 3


def test_nothing_is_written_after_a_fault(write_coco, tmp_path):
    data, out = write_coco([{}]), tmp_path / "out"
    out.mkdir()
    (out / "file").touch()
    with pytest.raises(UserError, match="out is in use"):
        slice_dataset(data, out, Tiling(32))
    (data / "val" / "1.png").write_bytes(b"text")
    for split, reason in (("val", "1.png"), ("train", "no object to train on")):
        with pytest.raises(UserError, match=reason):
            slice_dataset(data, tmp_path / "new", Tiling(32), min_visible=0.1)
        assert not [path for path in tmp_path.iterdir() if "new" in path.name]
        contents = {**records(data), "annotations": []} if split == "val" else records(data)
        (data / "annotations" / "instances_train.json").write_text(json.dumps(contents))
    result = slice_command(data, tmp_path / "new", "--overlap", "nan")
    assert result.exit_code == 2
    assert "--overlap" in result.output
