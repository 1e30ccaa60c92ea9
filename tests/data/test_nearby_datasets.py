"""A path one or two folders too deep or too shallow: the error names the dataset."""

import os

import pytest

from afictl.data.convert import convert_dataset
from afictl.data.layouts import find_layout
from afictl.errors import UserError


def message(path):
    with pytest.raises(UserError) as error:
        find_layout(path)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.fixture(params=["coco", "yolo", "voc"])
def dataset(request, write_coco, tmp_path):
    folder = tmp_path / "sets" / "mine"
    folder.parent.mkdir()
    convert_dataset(write_coco([{}]), folder, request.param)
    return folder


def test_every_folder_of_a_dataset_leads_to_it(dataset):
    for folder, names, _ in os.walk(dataset):
        for name in names:
            assert message(dataset.__class__(folder, name)).endswith(f"is a part of: {dataset}")


def test_a_file_of_a_dataset_leads_to_it(dataset):
    files = [path for path in dataset.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert files
    for file in files:
        assert "is a file" in message(file)
        assert message(file).endswith(f"is a part of: {dataset}")


def test_a_folder_above_leads_to_the_only_dataset(dataset, tmp_path):
    (tmp_path / "annotations").rename(tmp_path / "old")  # the dataset that was converted
    for folder in (dataset.parent, tmp_path):
        assert message(folder).endswith(f"give the dataset in it: {dataset}")


def test_several_datasets_are_named(write_coco, tmp_path):
    data = write_coco([{}])
    for name in ("b", "a"):
        convert_dataset(data, tmp_path / "sets" / name, "yolo")
    assert message(tmp_path / "sets").endswith(f"in it: {tmp_path / 'sets' / 'a'}, {tmp_path / 'sets' / 'b'}")


def test_relative_paths_stay_relative(write_coco, monkeypatch):
    data = write_coco([{}])
    monkeypatch.chdir(data / "annotations")
    with pytest.raises(UserError, match=r"is a part of: \.\.$"):
        find_layout(data.__class__("."))
    monkeypatch.chdir(data.parent)
    with pytest.raises(UserError, match=f"is a part of: {data.name}$"):
        find_layout(data.__class__(data.name, "train"))


def test_an_unrelated_folder_in_a_dataset_is_described_by_itself(write_coco):
    data = write_coco([{}])
    (data / "export").mkdir()
    (data / "export" / "objects.tfrecord").write_text("")
    with pytest.raises(UserError, match="TFRecord"):
        find_layout(data / "export").find("train")


def test_a_misspelt_folder_is_corrected(write_coco):
    data = write_coco([{}])
    assert message(data / "trian").endswith(f"no such folder; did you mean {data / 'train'}?")
