import json
import mmap
from itertools import islice

import pytest
import torch
from rich.console import Console

from afictl.errors import UserError
from benchmarks import annotations, image_loader
from benchmarks.annotation_file import write_annotation_file
from benchmarks.process_memory import process_memory


@pytest.fixture
def file(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    write_annotation_file(tmp_path / "annotations" / "instances_train.json", 0.001)
    return tmp_path / "annotations" / "instances_train.json"


@pytest.fixture
def console():
    return Console(width=200, record=True, quiet=False)


def test_measurements_of_concurrent_processes(file):
    figures = annotations.read_annotations("pycocotools", file, 2)
    assert 0 < figures["seconds"] < figures["cpu_seconds"] * 100
    assert 0 < figures["own_before"] < figures["own"] < figures["peak"]


def test_a_process_that_fails_is_an_error_with_its_command(file):
    with pytest.raises(UserError, match="no such library"):
        annotations.read_annotations("no such library", file, 1)


def test_process_memory_counts_new_pages():
    before = process_memory()
    # A new mapping: an allocation may reuse pages of something freed.
    block = mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range(50):
        block.write(b"x" * 1_000_000)
    after = process_memory()
    assert 45 < after["own"] - before["own"] < 60
    assert after["peak"] >= after["resident"] > before["resident"]
    block.close()


@pytest.mark.parametrize("masks", [False, True])
def test_loaders_give_comparable_batches(shapes_dir, masks):
    (batch,) = islice(image_loader._afictl(shapes_dir, "train", masks), 1)
    (reference,) = islice(image_loader._torchvision(shapes_dir, "train", masks), 1)
    assert {min(image.shape[1:]) for image in [*batch.images, *reference[0]]} <= set(image_loader._SIZES)
    for images, targets in ((batch.images, batch.targets), reference):
        assert len(images) == len(targets) == 4
        for image, target in zip(images, targets, strict=True):
            assert image.dtype == torch.float32
            assert ("masks" in target) == masks
            if masks:
                assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["polygon", "bitmask"])
def test_detectron2_loader_gives_a_batch(shared_data, kind):
    pytest.importorskip("detectron2")
    (batch,) = islice(image_loader._detectron2(shared_data / "coco-mini", "val", True, kind), 1)
    assert len(batch) == 4


@pytest.mark.parametrize("masks", [False, True])
def test_every_listed_loader_exists(masks, monkeypatch):
    monkeypatch.setattr(image_loader, "find_spec", lambda name: True)
    assert image_loader._LOADERS.keys() >= set(image_loader.loaders(masks))
    assert len(image_loader.loaders(masks)) == 3 + masks


@pytest.mark.slow
def test_a_library_that_cannot_read_the_data_is_left_out(shapes_dir, console, monkeypatch):
    monkeypatch.setattr(image_loader, "loaders", lambda masks: ["no such library", "afictl"])
    assert list(annotations.measure_loading(shapes_dir, "val", "boxes", 1, 4, console)) == ["afictl"]
    assert "no such library, boxes: " in console.export_text()
    monkeypatch.setattr(image_loader, "loaders", lambda masks: ["afictl"])
    with pytest.raises(UserError, match="nowhere"):
        annotations.measure_loading(shapes_dir / "nowhere", "val", "boxes", 1, 4, console)


@pytest.mark.parametrize(("spec", "caption"), [(None, "detectron2 is not installed"), ("spec", "rasterised later")])
def test_tables_show_relative_speeds(spec, caption, console, monkeypatch):
    monkeypatch.setattr(annotations, "find_spec", lambda name: spec)
    figures = {"cpu_seconds": 1, "peak": 900, "own_before": 100, "own": 130, "growth": 0.012}
    results = {name: {"seconds": seconds, **figures} for name, seconds in (("pycocotools", 12.0), ("afictl", 3.0))}
    console.print(annotations.reading_table({"file_megabytes": 444, "results": results, "turns": {}}))
    speeds = {"detectron2 polygons": 25.0, "detectron2 bitmaps": 12.0, "torchvision": 10.0, "afictl": 30.0}
    console.print(annotations.loading_table("masks", speeds))
    text = console.export_text()
    for words in ("4.0x", "1.2 %", " 30 ", "3.00x", "1.20x", caption):
        assert words in text


@pytest.mark.slow
def test_script_writes_all_figures(shapes_dir, tmp_path, capsys):
    options = ("--scale", "0.002", "--rounds", "1", "--count", "8", "--json", str(tmp_path / "figures.json"))
    annotations.main(["--data", str(shapes_dir), *options])
    figures = json.loads((tmp_path / "figures.json").read_text())
    readers = {"pycocotools", "afictl, first", "afictl, later", "afictl, first, 8 at once"}
    assert readers <= figures["reading"]["results"].keys()
    assert all(figures["loading"][kind]["afictl"] > 0 for kind in ("boxes", "masks"))
    assert "afictl, later, 8 at once" in capsys.readouterr().out


def test_a_missing_dataset_is_an_error_before_the_long_part(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        annotations.main(["--data", str(tmp_path / "nowhere")])
