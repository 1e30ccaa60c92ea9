import json
import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from afictl.data import index_cache, load_coco
from afictl.data.index_cache import cache_paths
from afictl.data.index_file import MappedArrays, read_index_file
from afictl.files import temporary_path
from afictl.tensor_files import read_tensors, save_tensors
from tests.helpers.full_disk import killed_draft

WIDE = [[1, 1, 60, 1, 60, 40, 1, 40], [2, 2, 9, 2, 9, 7]]


@pytest.fixture
def data(write_coco, monkeypatch, tmp_path) -> Path:
    """A data set that is large enough for a cache, and a home of its own."""
    monkeypatch.setattr(index_cache, "MIN_FILE_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(index_cache, "tempfile", SimpleNamespace(gettempdir=lambda: str(tmp_path / "home")))
    return write_coco([{"image_id": 2, "segmentation": WIDE}, {"area": 5}, {"iscrowd": 1}], images=[{}, {}])


def annotations(data: Path) -> Path:
    return data / "annotations" / "instances_train.json"


def beside(data: Path) -> Path:
    return cache_paths(annotations(data))[0]


def forbid_building(monkeypatch):
    def build(*_):
        raise AssertionError("the annotations were read again")

    monkeypatch.setattr("afictl.data.formats.coco.read_annotations", build)


def assert_same(first, second):
    assert (first.classes, first.category_ids) == (second.classes, second.category_ids)
    assert first.arrays.keys() == second.arrays.keys()
    assert all(first.arrays[name].equal(second.arrays[name]) for name in first.arrays)


def test_a_later_start_maps_what_the_first_one_kept(data, monkeypatch):
    monkeypatch.setattr(index_cache, "MIN_FILE_BYTES", 2**20)
    plain = load_coco(data, "train")
    assert not beside(data).exists()  # a small file gets none
    monkeypatch.setattr(index_cache, "MIN_FILE_BYTES", 0)
    first = load_coco(data, "train")
    assert set(os.listdir(data / "annotations")) == {"instances_train.json", "instances_val.json", beside(data).name}
    forbid_building(monkeypatch)
    later = load_coco(data, "train")
    assert isinstance(later.arrays, MappedArrays)
    assert_same(first, plain)
    assert_same(later, plain)
    assert [p.tolist() for p in later.objects(1).segmentations[0]] == WIDE


def test_other_annotations_are_read_anew_even_with_the_time_and_size_of_the_old(data):
    load_coco(data, "train")
    file = annotations(data)
    before, times = file.read_text(), file.stat()
    file.write_text(before.replace('"cat"', '"cow"'))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load_coco(data, "train").classes == ("cow", "dog")
    file.write_text(before)
    assert load_coco(data, "train").classes == ("cat", "dog")


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
def test_a_damaged_cache_is_made_again_in_silence(data, damage, capfd):
    sound = load_coco(data, "train")
    expected = {name: values.clone() for name, values in sound.arrays.items()}
    damage(beside(data))
    again = load_coco(data, "train")
    assert all(again.arrays[name].equal(values) for name, values in expected.items())
    assert isinstance(load_coco(data, "train").arrays, MappedArrays)
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
def test_a_strangers_cache_that_leads_outside_is_not_used(data, name, change):
    load_coco(data, "train")
    path = beside(data)
    tensors, description = read_tensors(path)
    tensors = {key: value.clone() for key, value in tensors.items()}
    assert read_index_file(path, description["source"], trusted=True) is not None
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name))
    save_tensors(path, tensors, description)
    assert read_index_file(path, description["source"], trusted=True) is None


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_mapped_index_travels_as_a_name(data, method):
    index = load_coco(data, "train").in_label_order(["dog", "bird", "cat"])
    assert index.objects(1).labels.tolist() == [3]
    with multiprocessing.get_context(method).Pool(1) as pool:
        kind, boxes = pool.apply(describe, (index,))
    assert boxes == index.objects(1).boxes.tolist()
    assert kind == "MappedArrays"
    assert len(pickle.dumps(load_coco(data, "train"))) < 2000


def describe(index):
    return type(index.arrays.maps[1]).__name__, index.objects(1).boxes.tolist()


def test_an_index_outlives_its_cache(data):
    index = load_coco(data, "train")
    beside(data).unlink()
    assert_same(pickle.loads(pickle.dumps(index)), index)


def start(folder, barrier, builds, queue):
    from afictl.data.formats import coco

    index_cache.MIN_FILE_BYTES = 0
    read = coco.read_annotations

    def counted(file):
        with builds.get_lock():
            builds.value += 1
        return read(file)

    coco.read_annotations = counted
    barrier.wait(60)
    index = load_coco(folder, "train")
    queue.put((type(index.arrays).__name__, index.objects(1).boxes.tolist()))


def test_eight_that_start_at_once_read_the_annotations_once(data):
    context = multiprocessing.get_context("fork")
    builds, queue, barrier = context.Value("i", 0), context.Queue(), context.Barrier(8)
    processes = [context.Process(target=start, args=(data, barrier, builds, queue)) for _ in range(8)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert builds.value == 1
    assert answers == [("MappedArrays", [[10, 10, 30, 30]])] * 8
    assert len(os.listdir(data / "annotations")) == 3


def test_a_folder_that_cannot_be_written_to_has_its_cache_at_home(data, monkeypatch):
    places = cache_paths(annotations(data))
    real = index_cache.write_index_file
    refused = set(places[:1])

    def write(place, *args):
        if place in refused:
            raise PermissionError(13, "Permission denied")
        real(place, *args)

    monkeypatch.setattr(index_cache, "write_index_file", write)
    first = load_coco(data, "train")
    assert [place.exists() for place in places] == [False, True, False]
    places[1].unlink()
    refused.add(places[1])
    load_coco(data, "train")
    assert [place.exists() for place in places] == [False, False, True]
    places[2].unlink()
    refused.add(places[2])
    assert_same(load_coco(data, "train"), first)  # without any cache


@pytest.mark.parametrize("place", range(3))
def test_a_killed_process_leaves_no_draft_for_ever(data, monkeypatch, place):
    """Where the index is written next; other drafts there are another one's business."""
    places = cache_paths(annotations(data))
    real = index_cache.write_index_file

    def write(path, *args):
        if path in places[:place]:
            raise PermissionError(13, "Permission denied")
        real(path, *args)

    monkeypatch.setattr(index_cache, "write_index_file", write)
    folder = places[place].parent
    folder.mkdir(exist_ok=True)
    left = killed_draft(places[place])
    kept = {
        temporary_path(places[place]),  # of a process that runs
        killed_draft(folder / "instances_other.json.afictl-index"),
        killed_draft(folder / "notes.json"),
        left.with_name(left.name.replace("index.", "index.another-")),  # of another machine
        left.with_name(left.name.removeprefix(".")),
    }
    for path in kept | {left}:
        path.touch()
    load_coco(data, "train")
    assert isinstance(load_coco(data, "train").arrays, MappedArrays)
    assert not left.exists()
    assert {path for path in kept if path.exists()} == kept - {temporary_path(places[place])}  # which became the index


def test_a_folder_whose_drafts_cannot_be_removed_still_gets_its_index(data, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index_cache, "remove_temporary_files", refuse)
    load_coco(data, "train")
    assert beside(data).exists()


def test_a_temporary_folder_of_somebody_else_is_not_trusted(data, tmp_path, monkeypatch):
    assert len(cache_paths(annotations(data))) == 3
    monkeypatch.setattr(index_cache.os, "getuid", lambda: 12345)
    (tmp_path / "home" / "afictl-12345").mkdir()
    assert len(cache_paths(annotations(data))) == 2


def test_a_machine_without_a_temporary_folder_has_one_place_less(data, monkeypatch):
    def missing():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(index_cache, "tempfile", SimpleNamespace(gettempdir=missing))
    assert len(cache_paths(annotations(data))) == 2
    assert isinstance(load_coco(data, "train").arrays, MappedArrays)


def test_without_locks_everything_still_works(data, monkeypatch):
    monkeypatch.setattr(index_cache, "fcntl", None)
    assert isinstance(load_coco(data, "train").arrays, MappedArrays)


def test_faulty_annotations_leave_no_cache(data):
    file = annotations(data)
    contents = json.loads(file.read_text())
    contents["annotations"][0]["bbox"] = [1]
    file.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match="four numbers"):
        load_coco(data, "train")
    assert not beside(data).exists()
