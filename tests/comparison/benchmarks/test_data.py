import mmap
from itertools import islice

import pytest
import torch
from rich.console import Console

from afictl.comparison.benchmarks import data, loading, reading
from afictl.comparison.benchmarks.annotation_file import write_annotation_file
from afictl.errors import UserError


@pytest.fixture
def file(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    write_annotation_file(tmp_path / "annotations" / "instances_train.json", 0.001)
    return tmp_path / "annotations" / "instances_train.json"


def test_processes_that_start_at_once_are_measured_one_by_one(file):
    found = data._read("pycocotools", file, 2)
    assert 0 < found["seconds"] < found["cpu_seconds"] * 100
    assert 0 < found["own_before"] < found["own"] < found["peak"]


def test_a_process_that_dies_is_told(file):
    with pytest.raises(UserError, match="ended early"):
        data._read("no such library", file, 1)


def test_memory_of_the_process_itself():
    before = reading.memory()
    # Mapped anew: what is allocated may lie where something freed has left its pages.
    block = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range(50):
        block.write(b"x" * 1_000_000)
    after = reading.memory()
    assert 45 < after["own"] - before["own"] < 60
    assert after["peak"] >= after["resident"] > before["resident"]
    block.close()


@pytest.mark.parametrize("masks", [False, True])
def test_the_loaders_give_the_same_kind_of_batch(shapes_dir, masks):
    (ours,) = islice(loading._afictl(shapes_dir, "train", masks), 1)
    (theirs,) = islice(loading._torchvision(shapes_dir, "train", masks), 1)
    assert {min(image.shape[1:]) for image in [*ours.images, *theirs[0]]} <= set(loading._SIZES)
    for images, targets in ((ours.images, ours.targets), theirs):
        assert len(images) == len(targets) == 4
        for image, target in zip(images, targets, strict=True):
            assert image.dtype == torch.float32
            assert ("masks" in target) == masks
            if masks:
                assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
def test_detectron2_gives_its_batch(shared_data, kind):
    pytest.importorskip("detectron2")
    (batch,) = islice(loading._detectron2(shared_data / "coco-mini", "val", True, kind), 1)
    assert len(batch) == 4


@pytest.mark.parametrize("masks", [False, True])
def test_every_loader_that_is_measured_exists(masks, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: True)
    assert loading._LOADERS.keys() >= set(loading.loaders(masks))
    assert len(loading.loaders(masks)) == 3 + masks


def figures(**seconds):
    numbers = {"cpu_seconds": 1, "peak": 900, "own_before": 100, "own": 130, "growth": 0.012}
    return {name: {"seconds": value, **numbers} for name, value in seconds.items()}


def test_a_library_that_cannot_read_the_data_is_left_out(shapes_dir, monkeypatch):
    monkeypatch.setattr(loading, "loaders", lambda masks: ["no such library", "afictl"])
    said = []
    assert list(data._loading(shapes_dir, "val", "boxes", 1, 4, said.append)) == ["afictl"]
    assert "no such library, boxes: failed" in said[0]
    monkeypatch.setattr(loading, "loaders", lambda masks: ["afictl"])
    with pytest.raises(UserError, match="loader failed"):
        data._loading(shapes_dir / "nowhere", "val", "boxes", 1, 4, said.append)


@pytest.mark.parametrize(
    ("installed", "caption"), [(None, "detectron2 is not installed here"), ("spec", "drawn later")]
)
def test_the_tables_say_how_many_times_faster(installed, caption, monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda name: installed)
    read = {"file_megabytes": 444, "results": figures(pycocotools=12.0, afictl=3.0)}
    masks = {"detectron2 polygons": 25.0, "detectron2 bitmaps": 12.0, "torchvision": 10.0, "afictl": 30.0}
    loaded = {"boxes": {"torchvision": 20.0, "afictl": 30.0}, "masks": masks}
    console = Console(width=100, record=True, quiet=False)
    for table in data.tables({"reading": read, "loading": loaded}):
        console.print(table)
    text = console.export_text()
    for words in ("4.0x", "1.2 %", " 30 ", "1.50x", "1.20x", caption):
        assert words in text
