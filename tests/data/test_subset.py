import json

import pytest
from typer.testing import CliRunner

from afictl.cli.data import app
from afictl.data import load_dataset
from afictl.data.subset import write_subset
from afictl.errors import UserError


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("copy", [False, True])
def test_subset_keeps_labels_of_a_fraction(shapes_dir, tmp_path, copy):
    counts = write_subset(shapes_dir, tmp_path / "part", 0.3, copy=copy)
    assert (counts.labelled, counts.unlabelled) == (4, 10)
    subset, source = (load_dataset(folder, "train") for folder in (tmp_path / "part", shapes_dir))
    assert sum(counts.objects.values()) == len(subset.arrays["ids"])
    assert tuple(counts.objects) == subset.classes == source.classes
    for i, image_id in enumerate(subset.image_ids):
        k = source.image_ids.index(image_id)
        assert subset.objects(i).ids.equal(source.objects(k).ids)
        assert subset.image_path(i).read_bytes() == source.image_path(k).read_bytes()
        assert subset.image_path(i).is_symlink() is not copy
    labelled, unlabelled = names(tmp_path / "part" / "train"), names(tmp_path / "part" / "unlabeled")
    assert (len(labelled), len(unlabelled)) == (4, 10)
    assert labelled | unlabelled == names(shapes_dir / "train2017")
    assert load_dataset(tmp_path / "part", "val").image_ids == load_dataset(shapes_dir, "val").image_ids
    assert all(load_dataset(tmp_path / "part", "val").image_path(i).is_file() for i in range(6))


def test_selection_depends_on_seed_and_file_names_alone(shapes_dir, tmp_path):
    for name, fraction, seed in (("few", 0.2, 0), ("many", 0.5, 0), ("other", 0.5, 1)):
        write_subset(shapes_dir, tmp_path / name, fraction, seed)
    reordered = tmp_path / "reordered"
    (reordered / "annotations").mkdir(parents=True)
    (reordered / "train").symlink_to(shapes_dir / "train2017")
    content = json.loads((shapes_dir / "annotations" / "instances_train2017.json").read_text())
    content["images"].reverse()
    (reordered / "annotations" / "instances_train.json").write_text(json.dumps(content))
    write_subset(reordered, tmp_path / "same", 0.5)
    few, many, other, same = (names(tmp_path / name / "train") for name in ("few", "many", "other", "same"))
    assert few < many
    assert many != other
    assert many == same
    assert few == {"000002.jpg", "000011.jpg", "000014.jpg"}  # in every version, on every system


def test_file_names_with_folders_are_linked_below_them(write_coco):
    data = write_coco([{}], images=[{"file_name": "1.png"}, {"file_name": "2.png"}])
    file = data / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    for image in content["images"]:
        (data / "train" / f"day{image['id']}").mkdir()
        (data / "train" / image["file_name"]).rename(data / "train" / f"day{image['id']}" / image["file_name"])
        image["file_name"] = f"day{image['id']}/{image['file_name']}"
    file.write_text(json.dumps(content))
    write_subset(data, data / "part", 0.5)
    linked_files = [path.relative_to(data / "part").as_posix() for path in (data / "part").glob("*/day*/*.png")]
    assert len([name for name in linked_files if name.startswith("train/")]) == 1
    assert len([name for name in linked_files if name.startswith("unlabeled/")]) == 1


@pytest.mark.parametrize(
    "name", ["image_info_test-dev2017.json", "image_info_test2017.json", "instances_test2017.json"]
)
def test_subset_includes_test_images(write_coco, name):
    data = write_coco([{}], images=[{}, {}])
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    (data / "annotations" / name).write_text(json.dumps(content))
    (data / "train").rename(data / "test2017")
    (data / "train").symlink_to(data / "test2017")
    write_subset(data, data / "part", 0.5)
    dataset = load_dataset(data / "part", "test")
    assert len(dataset) == 2
    assert dataset.image_path(0).is_file()
    assert dataset.annotation_file.name.startswith(name[:10])


@pytest.mark.parametrize(
    ("change", "fraction", "facts"),
    [
        (None, 1, "--fraction 1: "),
        (None, 0, "--fraction 0: "),
        ("missing", 0.5, r"2\.png .*'afictl data check'"),
        ("outside", 0.5, r"'\.\./1\.png': .*file_name"),
        ("empty", 0.5, r"instances_train\.json: 'images' .*empty"),
        ("in use", 0.5, "part .*in use"),
    ],
)
def test_errors_leave_no_files(write_coco, change, fraction, facts):
    data = write_coco([{}], images=[{}, {}])
    file = data / "annotations" / "instances_train.json"
    if change == "missing":
        (data / "train" / "2.png").unlink()
    if change == "outside":
        (data / "1.png").write_bytes((data / "train" / "1.png").read_bytes())
        file.write_text(file.read_text().replace('"1.png"', '"../1.png"'))
    if change == "empty":
        file.write_text('{"images": [], "annotations": [], "categories": []}')
    if change == "in use":
        (data / "part").mkdir()
        (data / "part" / "notes.txt").write_text("text")
    initial_names = names(data)
    with pytest.raises(UserError, match=facts):
        write_subset(data, data / "part", fraction)
    assert names(data) == initial_names


def test_command_prints_counts(shapes_dir, tmp_path):
    result = CliRunner().invoke(app, ["subset", str(shapes_dir), str(tmp_path / "part"), "--fraction", "0.5"])
    assert result.exit_code == 0
    assert "7 training images with labels, 7 without" in result.output
    assert str(tmp_path / "part" / "unlabeled") in result.output
    assert "disc " in result.output
