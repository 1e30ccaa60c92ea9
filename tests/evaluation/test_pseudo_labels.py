"""Selection of pseudo labels and the file that they are written to."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from afictl import load_preset
from afictl.data.formats.coco import load_coco_file
from afictl.detectors.masks import paste_masks
from afictl.distributed import Runtime
from afictl.errors import UserError
from afictl.evaluation import tta
from afictl.evaluation.pseudo_labels import EvenSample, class_thresholds, write_pseudo_labels
from afictl.presets import InputConfig

CLASSES = ("cat", "N/A", "dog")
DETECTIONS = [  # label, score, box in the resized image of 32 x 64 pixels: half the size of the image
    (1, 0.95, (0, 0, 10, 20)),
    (1, 0.70, (20, 4, 40.5, 20)),
    (1, 0.69, (0, 0, 5, 5)),
    (3, 0.65, (10, 10, 30, 30)),
    (3, 0.50, (40, 10, 60, 30)),
    (2, 0.99, (0, 0, 9, 9)),  # of a placeholder
    (3, 0.99, (5, 5, 5, 30)),  # without area
]


class Scripted:
    """A detector with the detections DETECTIONS on bright images and none on dark images."""

    input = InputConfig(min_sizes=(32,), test_size=32)
    paste_masks = staticmethod(paste_masks)

    def __init__(self, masks=False):
        self.masks = masks

    def detect(self, images):
        (image,) = images
        assert image.shape == (3, 32, 64)
        detections = DETECTIONS if image.mean() > 0.5 else []
        detection = {
            "boxes": torch.tensor([box for _, _, box in detections], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([label for label, _, _ in detections], dtype=torch.int64),
            "scores": torch.tensor([score for _, score, _ in detections], dtype=torch.float32),
        }
        if self.masks:
            detection["mask_probs"] = torch.ones(len(detections), 4, 4)
            detection["mask_probs"][1:2] = 0  # the second has no pixel
        return [detection]


def teacher(masks=False, category_ids=(7, 0, 3)):
    metadata = {} if category_ids is None else {"category_ids": list(category_ids)}
    preset = load_preset("faster-rcnn-r18-fpn-tiny", ["detector.max_detections=3"])
    return SimpleNamespace(detector=Scripted(masks), classes=CLASSES, metadata=metadata, preset=preset)


@pytest.fixture
def images(tmp_path):
    """Two bright images, one dark and one broken."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for name, value in (("a.png", 200), ("b.png", 20), ("deep/c.png", 220)):
        Image.fromarray(np.full((64, 128, 3), value, dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    return folder


def write(images, output, thresholds=(0.7, 0.7, 0.6), workers=0, **options):
    files, runtime = sorted(images.rglob("*.png")), Runtime(workers=workers)
    return write_pseudo_labels(
        options.pop("teacher", teacher()), files, images, output, thresholds, runtime, info={}, **options
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_detections_above_the_threshold_of_their_class_are_counted(images, tmp_path, workers):
    calls = []
    report = write(images, tmp_path / "pseudo.json", workers=workers, progress=lambda *call: calls.append(call))
    counts = [(c.name, c.threshold, c.detections, c.labels, c.images) for c in report.classes.values()]
    assert counts == [("cat", 0.7, 6, 4, 2), ("dog", 0.6, 6, 2, 2)]
    assert (report.images, report.labelled_images, report.labels, report.cut_images) == (3, 2, 6, 2)
    assert [line.partition(" cannot be read")[0] for line in report.unreadable] == [f"image {images / 'broken.png'}"]
    assert calls == [(k, 4) for k in range(1, 5)]


def test_the_file_is_read_as_any_annotation_file(images, tmp_path):
    write(images, tmp_path / "pseudo.json")
    index = load_coco_file(tmp_path / "pseudo.json", images)
    assert (index.classes, index.category_ids) == (("dog", "cat"), (3, 7))
    assert [index.image_path(i).relative_to(images).as_posix() for i in range(3)] == ["a.png", "b.png", "deep/c.png"]
    assert [index.size_hw(i) for i in range(3)] == [(64, 128)] * 3
    assert index.training_images() == [0, 2]
    assert not index.has_masks
    objects = index.training_objects(0)
    torch.testing.assert_close(objects.boxes, torch.tensor([[0, 0, 20, 40], [40, 8, 81, 40], [20, 20, 60, 60.0]]))
    assert objects.labels.tolist() == [2, 2, 1]
    assert index.training_objects(2).ids.tolist() == [4, 5, 6]


def test_annotations_have_score_and_source(images, tmp_path):
    write(images, tmp_path / "pseudo.json")
    content = json.loads((tmp_path / "pseudo.json").read_text())
    assert list(content) == ["info", "categories", "images", "annotations"]
    assert content["annotations"][1] == {
        "id": 2,
        "image_id": 1,
        "category_id": 7,
        "bbox": [40.0, 8.0, 41.0, 32.0],
        "score": 0.7,
        "area": 41.0 * 32.0,
        "iscrowd": 0,
        "source": "pseudo",
    }
    assert content["info"]["image_folder"] == "images"
    (unreadable,) = content["info"]["unreadable"]
    assert unreadable.startswith("image broken.png cannot be read")
    assert str(tmp_path) not in (tmp_path / "pseudo.json").read_text()


def test_masks_are_run_lengths_and_an_empty_mask_is_left_out(images, tmp_path):
    write(images, tmp_path / "pseudo.json", teacher=teacher(masks=True))
    first, second, *_ = json.loads((tmp_path / "pseudo.json").read_text())["annotations"]
    drawn = coco_mask.decode(first["segmentation"])
    assert drawn.shape == (64, 128)
    assert drawn[2:38, 2:18].all()  # the grid fades at its corners
    assert drawn[:40, :20].sum() == drawn.sum() == first["area"]
    assert "segmentation" not in second
    assert second["area"] == 41 * 32
    index = load_coco_file(tmp_path / "pseudo.json", images)
    assert [len(index.training_objects(0, masks).boxes) for masks in (False, True)] == [3, 2]


def test_a_checkpoint_without_ids_gets_its_classes_numbered(images, tmp_path):
    for ids in (None, (1, 0, 1), (1, 2)):
        write(images, tmp_path / "pseudo.json", teacher=teacher(category_ids=ids))
        categories = json.loads((tmp_path / "pseudo.json").read_text())["categories"]
        assert categories == [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]


@pytest.mark.parametrize(("size", "expected"), [(1, {"a.png": 3}), (8, {"a.png": 3, "c.png": 3})])
def test_examples_are_labelled_images(images, tmp_path, size, expected):
    report = write(images, tmp_path / "pseudo.json", examples=size)
    assert {file.name: len(records) for file, records in report.examples} == expected


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 17, 1000])
def test_examples_are_evenly_distributed_over_a_stream_of_any_length(length):
    sample = EvenSample(8)
    for item in range(length):
        sample.add(item)
    items = sample.items()
    assert len(items) == min(8, length)
    gaps = [b - a for a, b in pairwise([*items, length])]
    assert items[:1] == list(range(length))[:1]
    assert not gaps or max(gaps) <= 2 * length / len(items)


def test_without_labels_nothing_is_written(images, tmp_path):
    (tmp_path / "pseudo.json").write_text("older")
    with pytest.raises(UserError, match=r"12 detections .*3 images"):
        write(images, tmp_path / "pseudo.json", thresholds=(1, 1, 1))
    for path in images.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no image .*read.*a\.png"):
        write(images, tmp_path / "pseudo.json")
    assert (tmp_path / "pseudo.json").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"images", "pseudo.json"}


def test_an_interruption_leaves_nothing_behind(images, tmp_path):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(images, tmp_path / "new" / "pseudo.json", progress=stop)
    assert list((tmp_path / "new").iterdir()) == []


def test_several_scales_use_the_original_image(images, tmp_path, monkeypatch):
    def detect(detector, image, tta):
        assert image.dtype == torch.uint8
        assert image.shape == (3, 64, 128)
        boxes = torch.tensor([[0, 0, 20.0, 20]])
        return {"boxes": boxes, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}

    monkeypatch.setattr("afictl.evaluation.tta.detect_augmented", detect)
    write(images, tmp_path / "pseudo.json", views=tta.TestTimeAugmentation((32, 64)))
    content = json.loads((tmp_path / "pseudo.json").read_text())
    assert content["annotations"][0]["bbox"] == [0, 0, 20, 20]
    assert content["info"]["tta"] == {"min_sizes": [32, 64], "max_size": 4000, "flip": True}


def test_a_class_may_have_a_separate_threshold():
    assert class_thresholds(("cat", "dog"), 0.7, {"dog": 0.4}) == [0.7, 0.4]


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        ({"dgo": 0.5}, r"--class-threshold dgo=0\.5: .*'dog'"),
        ({"zebra": 0.5}, r"--class-threshold zebra=0\.5: .*cat, dog"),
        ({"dog": 1.5}, r"--class-threshold dog=1\.5: .*0 and 1"),
        ({"dog": float("nan")}, "--class-threshold dog=nan: .*0 and 1"),
    ],
)
def test_an_invalid_threshold_is_refused(overrides, facts):
    with pytest.raises(UserError, match=facts):
        class_thresholds(("cat", "dog"), 0.7, overrides)


@pytest.mark.parametrize("damage", [b"", b'{"file": "b', b"[]\n"])  # what a killed command has written last
def test_an_interrupted_call_is_continued_without_repetition(images, tmp_path, monkeypatch, damage):
    expected, output, calls = tmp_path / "expected.json", tmp_path / "pseudo.json", []
    journal = tmp_path / "pseudo.json.partial"
    labels = write(images, expected)

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    detect = Scripted.detect
    monkeypatch.setattr(Scripted, "detect", lambda *args: calls.append(1) or detect(*args))
    with pytest.raises(KeyboardInterrupt):
        write(images, output, settings={"weights": "a"}, progress=interrupt)
    assert not output.exists()
    with journal.open("ab") as file:
        file.write(damage)
    calls.clear()
    report = write(images, output, settings={"weights": "a"})
    assert (report.continued, len(calls)) == (3, 1)
    assert report.labels == labels.labels
    assert report.classes == labels.classes
    assert report.examples == labels.examples
    assert json.loads(output.read_text()) == json.loads(expected.read_text())
    assert not journal.exists()


@pytest.mark.parametrize(("weights", "removed", "continued"), [("b", "", 0), ("a", "b.png", 1)])
def test_labels_of_other_settings_or_images_are_not_continued(images, tmp_path, weights, removed, continued):
    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(images, tmp_path / "pseudo.json", settings={"weights": "a"}, progress=interrupt)
    if removed:
        (images / removed).unlink()
    report = write(images, tmp_path / "pseudo.json", settings={"weights": weights})
    assert report.continued == continued
    assert len(json.loads((tmp_path / "pseudo.json").read_text())["images"]) == report.images


def test_two_processes_do_not_write_one_file(images, tmp_path):
    def write_again(done, total):
        with pytest.raises(UserError, match=r"pseudo\.json: another process writes pseudo labels to it"):
            write(images, tmp_path / "pseudo.json", settings={"weights": "a"})

    write(images, tmp_path / "pseudo.json", settings={"weights": "a"}, progress=write_again)
    assert not list(tmp_path.glob("pseudo.json.*"))
