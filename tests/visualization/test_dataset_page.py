"""The page of a dataset: sentences on small objects, classes, escaping, and what is refused."""

import json
import re

import pytest
from PIL import Image

from afictl.data import load_dataset
from afictl.data.convert import convert_dataset
from afictl.presets import load_preset
from afictl.visualization.dataset_page import write_dataset_page
from afictl.visualization.object_sizes import ObjectSizes

HOSTILE = "<script>alert(1)</script>\"' onload=x"


@pytest.fixture
def make_dataset(tmp_path):
    """A function that writes a COCO dataset of one image, with objects of the first class, and loads it."""

    def make(side, boxes, classes=("car",), file_name="1.png"):
        (tmp_path / "annotations").mkdir()
        (tmp_path / "train2017").mkdir()
        Image.new("RGB", (side, side)).save(tmp_path / "train2017" / file_name)
        content = {
            "images": [{"id": 1, "file_name": file_name, "width": side, "height": side}],
            "categories": [{"id": k, "name": name} for k, name in enumerate(classes, start=1)],
            "annotations": [
                {"id": k, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0}
                for k, box in enumerate(boxes, start=1)
            ],
        }
        (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        return load_dataset(tmp_path, "train")

    return make


def without_pictures(page):
    return re.sub(r"data:[a-z/+]*;base64,[\w+/=]*", "data:", page)


def test_tiny_objects_are_told_with_ways_to_mend_them(make_dataset):
    dataset = make_dataset(1600, [[40 * k, 300, 12, 12] for k in range(30)])
    preset = load_preset("faster-rcnn-r18-fpn-tiny")
    text = " ".join(ObjectSizes(dataset, preset).sentences())
    assert "12 pixels in the image files and 1.8 pixels" in text
    assert "Most objects (100%) are smaller than the stride of the finest level p2, 4 pixels" in text
    assert "'afictl data slice DATA OUT --size 160'" in text
    assert "'afictl data anchors DATA --preset faster-rcnn-r18-fpn-tiny'" in text
    settings = re.findall(r"--set '?(input[^ ']*)", text)
    mended = " ".join(ObjectSizes(dataset, load_preset(preset.name, settings)).sentences())
    assert "16 pixels after resizing" in mended
    assert "Larger images" not in mended


def test_large_objects_need_nothing(make_dataset):
    dataset = make_dataset(400, [[20 * k, 100, 100, 90] for k in range(10)])
    text = " ".join(ObjectSizes(dataset, load_preset("faster-rcnn-r18-fpn-tiny")).sentences())
    assert "0% of the objects are smaller" in text
    assert "the anchors fit" in text
    assert "help" not in text
    assert "32" not in " ".join(ObjectSizes(dataset).sentences())


def test_the_page_has_all_classes_and_no_folder(afictl, shapes_dir, tmp_path):
    convert_dataset(shapes_dir, tmp_path / "yolo", "yolo", copy=False)
    data, page = tmp_path / "yolo" / "data.yaml", tmp_path / "out" / "page.html"
    command = ("data", "show", data, "--output", page, "--preset", "fcos-r18-fpn-tiny", "--number", 1)
    assert afictl(*command)[0] == 0
    text = without_pictures(page.read_text())
    for name in load_dataset(data, "train").classes:
        assert f'<th scope="row">{name}</th>' in text
    assert "96 x 96" in text
    assert "240 x 240" in text
    assert text.count('loading="lazy"') == 1
    assert str(tmp_path) not in text
    assert not re.search(r"https?:|url\(", text)
    first = page.read_bytes()
    code, _, error = afictl(*command)
    assert code == 2
    assert "page.html is in use" in error
    page.unlink()
    afictl(*command)
    assert page.read_bytes() == first


def test_names_are_escaped(make_dataset, tmp_path):
    dataset = make_dataset(64, [[5, 5, 20, 20]], classes=(HOSTILE, f"b{HOSTILE}"), file_name="<b onload=x>.png")
    page = tmp_path / "page.html"
    write_dataset_page(tmp_path, "train", dataset, page)
    text = without_pictures(page.read_text())
    assert "<script" not in text
    assert "<b onload" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 5  # two classes, both with few objects, a legend
    assert "&lt;b onload=x&gt;.png" in text


def test_a_split_without_objects_has_a_page(make_dataset, tmp_path):
    page = tmp_path / "page.html"
    write_dataset_page(tmp_path, "train", make_dataset(64, []), page, preset=load_preset("faster-rcnn-r18-fpn-tiny"))
    text = page.read_text()
    assert "0 objects" in text
    assert "Histogram" not in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--output", "page.pdf"), "page.pdf"),
        (("--output", "page.html", "--set", "input.test_size=64"), "--preset"),
        (("--output", "page.html", "--split", "valid"), "valid"),
    ],
)
def test_mistakes_are_named_and_write_nothing(afictl, shapes_dir, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    code, _, error = afictl("data", "show", shapes_dir, *arguments)
    assert code == 2
    assert named in error
    assert not list(tmp_path.iterdir())
