import json
import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afictl.data import index_cache, load_dataset
from afictl.data.index_cache import cache_paths
from afictl.data.index_file import MappedArrays, read_index_file
from afictl.files import temporary_path
from afictl.tensor_files import read_tensors, save_tensors
from tests.helpers.full_disk import killed_draft
from tests.helpers.ranks import FORKS

WIDE = [[1, 1, 60, 1, 60, 40, 1, 40], [2, 2, 9, 2, 9, 7]]


@pytest.fixture
def data(write_coco, monkeypatch, tmp_path) -> Path:
    """A dataset that gets a cache, and a separate cache folder."""
    monkeypatch.setattr(index_cache, "MIN_FILE_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(index_cache, "tempfile", SimpleNamespace(gettempdir=lambda: str(tmp_path / "home")))
    return write_coco([{"image_id": 2, "segmentation": WIDE}, {"area": 5}, {"iscrowd": 1}], images=[{}, {}])


def annotations(data: Path) -> Path:
    return data / "annotations" / "instances_train.json"


def index_path(data: Path) -> Path:
    """Path of the index beside the annotation file."""
    return cache_paths(annotations(data))[0]


def forbid_building(monkeypatch):
    def build(*_):
        raise AssertionError("the annotations were read again")

    monkeypatch.setattr("afictl.data.formats.coco.read_annotations", build)


def assert_same(first, second):
    assert (first.classes, first.category_ids) == (second.classes, second.category_ids)
    assert first.arrays.keys() == second.arrays.keys()
    assert all(first.arrays[name].equal(second.arrays[name]) for name in first.arrays)


def test_a_second_load_maps_the_index_of_the_first(data, monkeypatch):
    monkeypatch.setattr(index_cache, "MIN_FILE_BYTES", 2**20)
    plain = load_dataset(data, "train")
    assert not index_path(data).exists()  # a small file gets none
    monkeypatch.setattr(index_cache, "MIN_FILE_BYTES", 0)
    first = load_dataset(data, "train")
    assert set(os.listdir(data / "annotations")) == {
        "instances_train.json",
        "instances_val.json",
        index_path(data).name,
    }
    forbid_building(monkeypatch)
    second = load_dataset(data, "train")
    assert isinstance(second.arrays, MappedArrays)
    assert_same(first, plain)
    assert_same(second, plain)
    assert [p.tolist() for p in second.objects(1).segmentations[0]] == WIDE


def test_changed_annotations_of_same_time_and_size_are_read_again(data):
    load_dataset(data, "train")
    file = annotations(data)
    text, times = file.read_text(), file.stat()
    file.write_text(text.replace('"cat"', '"cow"'))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_dataset(data, "train").classes == ("cow", "dog")
    file.write_text(text)
    assert load_dataset(data, "train").classes == ("cat", "dog")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def another_format(path):
    tensors, description = read_tensors(path)
    save_tensors(path, tensors, description | {"format": 0})


def no_description(path):
    save_tensors(path, read_tensors(path)[0], {})


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, another_format, no_description, a_folder])
def test_damaged_index_is_replaced_silently(data, damage, capfd):
    sound = load_dataset(data, "train")
    expected = {name: values.clone() for name, values in sound.arrays.items()}
    damage(index_path(data))
    dataset = load_dataset(data, "train")
    assert all(dataset.arrays[name].equal(values) for name, values in expected.items())
    assert isinstance(load_dataset(data, "train").arrays, MappedArrays)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("object_ends", lambda v: v.fill_(10**9)),
        ("object_ends", lambda v: v.flip(0).contiguous()),
        ("name_ends", lambda v: v - 1),
        ("polygon_ends", lambda v: v + (v > 0)),
        ("polygon_ends", lambda v: torch.tensor([0, v[-1] - 2, v[-1], v[-1]])),  # a polygon of one point
        ("object_polygons", lambda v: v * 2),
        ("object_polygons", lambda v: torch.tensor([0, 2**62, -(2**62), 3])),
        ("rle_ends", lambda v: torch.tensor([0, 0, 0, 5])),
        ("labels", lambda v: v * 0),
        ("labels", lambda v: v + 100),
        ("sizes_hw", lambda v: v * 0),
        ("sizes_hw", lambda v: v.int()),
        ("xywh", lambda v: v[:1]),
        ("xywh", lambda v: v.float()),
        ("ids", lambda v: v[:, None]),
        ("ids", lambda v: v.sum()),
        ("more", lambda v: torch.zeros(3)),
        ("crowd", None),
    ],
)
def test_index_with_values_out_of_range_is_rejected(data, name, change):
    load_dataset(data, "train")
    path = index_path(data)
    tensors, description = read_tensors(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    assert read_index_file(path, description["source"], trusted=True) is not None
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name))
    save_tensors(path, tensors, description)
    assert read_index_file(path, description["source"], trusted=True) is None


@pytest.mark.parametrize("context", [multiprocessing.get_context("fork"), FORKS], ids=["fork", "forkserver"])
def test_mapped_index_is_pickled_as_a_path(data, context):
    dataset = load_dataset(data, "train").in_label_order(["dog", "bird", "cat"])
    assert dataset.objects(1).labels.tolist() == [3]
    with context.Pool(1) as pool:
        kind, boxes = pool.apply(describe, (dataset,))
    assert boxes == dataset.objects(1).boxes.tolist()
    assert kind == "MappedArrays"
    assert len(pickle.dumps(load_dataset(data, "train"))) < 2000


def describe(dataset):
    return type(dataset.arrays.maps[1]).__name__, dataset.objects(1).boxes.tolist()


def test_mapped_index_survives_deletion_of_its_file(data):
    dataset = load_dataset(data, "train")
    index_path(data).unlink()
    assert_same(pickle.loads(pickle.dumps(dataset)), dataset)


def load_and_count_builds(folder, barrier, builds, queue):
    from afictl.data.formats import coco

    index_cache.MIN_FILE_BYTES = 0
    read = coco.read_annotations

    def count_and_read(file, omitted):
        with builds.get_lock():
            builds.value += 1
        return read(file, omitted)

    coco.read_annotations = count_and_read
    barrier.wait(60)
    dataset = load_dataset(folder, "train")
    queue.put((type(dataset.arrays).__name__, dataset.objects(1).boxes.tolist()))


def test_eight_concurrent_processes_read_the_annotations_once(data):
    context = multiprocessing.get_context("fork")
    builds, queue, barrier = context.Value("i", 0), context.Queue(), context.Barrier(8)
    processes = [context.Process(target=load_and_count_builds, args=(data, barrier, builds, queue)) for _ in range(8)]
    for process in processes:
        process.start()
    outcomes = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert builds.value == 1
    assert outcomes == [("MappedArrays", [[10, 10, 30, 30]])] * 8
    assert len(os.listdir(data / "annotations")) == 3


def test_index_of_a_read_only_folder_is_in_the_user_cache(data, monkeypatch):
    paths = cache_paths(annotations(data))
    real = index_cache.write_index_file
    unwritable = set(paths[:1])

    def write(path, *args):
        if path in unwritable:
            raise PermissionError(13, "Permission denied")
        real(path, *args)

    monkeypatch.setattr(index_cache, "write_index_file", write)
    first = load_dataset(data, "train")
    assert [path.exists() for path in paths] == [False, True, False]
    paths[1].unlink()
    unwritable.add(paths[1])
    load_dataset(data, "train")
    assert [path.exists() for path in paths] == [False, False, True]
    paths[2].unlink()
    unwritable.add(paths[2])
    assert_same(load_dataset(data, "train"), first)  # without any cache


@pytest.mark.parametrize("position", range(3))
def test_temporary_files_of_killed_processes_are_removed(data, monkeypatch, position):
    """Beside the index that is written, and of this index alone."""
    paths = cache_paths(annotations(data))
    real = index_cache.write_index_file

    def write(path, *args):
        if path in paths[:position]:
            raise PermissionError(13, "Permission denied")
        real(path, *args)

    monkeypatch.setattr(index_cache, "write_index_file", write)
    folder = paths[position].parent
    folder.mkdir(exist_ok=True)
    draft = killed_draft(paths[position])
    running_draft = temporary_path(paths[position])  # becomes the index
    other_files = {
        killed_draft(folder / "instances_other.json.afictl-index"),
        killed_draft(folder / "notes.json"),
        draft.with_name(draft.name.replace("index.", "index.another-")),  # of another machine
        draft.with_name(draft.name.removeprefix(".")),
    }
    for path in other_files | {draft, running_draft}:
        path.touch()
    load_dataset(data, "train")
    assert isinstance(load_dataset(data, "train").arrays, MappedArrays)
    assert not draft.exists()
    assert not running_draft.exists()
    assert all(path.exists() for path in other_files)


def test_index_is_written_where_temporary_files_cannot_be_removed(data, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index_cache, "remove_temporary_files", refuse)
    load_dataset(data, "train")
    assert index_path(data).exists()


def test_temporary_folder_of_another_user_is_not_used(data, tmp_path, monkeypatch):
    assert len(cache_paths(annotations(data))) == 3
    monkeypatch.setattr(index_cache.os, "getuid", lambda: 12345)
    (tmp_path / "home" / "afictl-12345").mkdir()
    assert len(cache_paths(annotations(data))) == 2


def test_index_works_without_a_temporary_folder(data, monkeypatch):
    def missing():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(index_cache, "tempfile", SimpleNamespace(gettempdir=missing))
    assert len(cache_paths(annotations(data))) == 2
    assert isinstance(load_dataset(data, "train").arrays, MappedArrays)


def test_index_works_without_file_locks(data, monkeypatch):
    monkeypatch.setattr(index_cache, "fcntl", None)
    assert isinstance(load_dataset(data, "train").arrays, MappedArrays)


def test_faulty_annotations_give_no_index(data):
    file = annotations(data)
    contents = json.loads(file.read_text())
    contents["annotations"][0]["bbox"] = [1]
    file.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"id 1.*'bbox'"):
        load_dataset(data, "train")
    assert not index_path(data).exists()
