"""Class names are lines of tables, lists and labels: other texts are refused by every format, and named."""

import json

import pytest
import yaml

from afictl.data import load_dataset
from afictl.data.check import check_split
from afictl.data.convert import convert_dataset
from afictl.data.formats.coco import load_ground_truth_file
from afictl.errors import UserError
from afictl.weights.classes import read_classes

NAMES = ["", "  ", "red\ncell", "red\tcell", "\x1b[31mred", "red\u2028cell"]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def named(write_coco, name):
    """A dataset with this class name."""
    return write_coco([{}], categories=[{"id": 1, "name": name}, {"id": 2, "name": "dog"}])


def test_coco(named, name):
    with pytest.raises(UserError, match=r"instances_train\.json: categories\[0\] \(id 1\): 'name' is ") as error:
        load_dataset(named, "train")
    assert repr(name) in str(error.value)


def test_the_check_names_it_once(named):
    """Its objects are checked like others, so that nothing else follows from the name."""
    report = check_split(named, "train")
    assert {rule: len(places) for rule, places in report.findings.items()} == {
        "malformed-record": 1,
        "category-unused": 1,  # dog
    }
    assert report.histogram == {"id 1": 1, "dog": 0}


def test_no_other_format_gets_it(named, tmp_path):
    for form in ("coco", "yolo", "voc"):
        with pytest.raises(UserError, match=r"categories\[0\]"):
            convert_dataset(named, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_yolo(write_coco, name, tmp_path):
    convert_dataset(write_coco([{}]), tmp_path / "yolo", "yolo")
    file = tmp_path / "yolo" / "data.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "names": [name, "dog"]}))
    with pytest.raises(UserError, match=r"data\.yaml: key 'names'"):
        load_dataset(tmp_path / "yolo", "train")


@pytest.mark.parametrize("name", ["red\ncell", "red\tcell", "red\u2028cell"])
def test_voc(write_coco, name, tmp_path):
    convert_dataset(write_coco([{}]), tmp_path / "voc", "voc")
    file = tmp_path / "voc" / "Annotations" / "train" / "1.xml"
    file.write_text(file.read_text().replace("<name>cat<", f"<name>{name}<"), encoding="utf-8")
    with pytest.raises(UserError, match=r"1\.xml: object 1: 'name' is "):
        load_dataset(tmp_path / "voc", "train")


def test_classes_of_a_checkpoint(name, tmp_path):
    (tmp_path / "names.json").write_text(json.dumps(["dog", name]))
    with pytest.raises(UserError, match=r"--classes .*names\.json: "):
        read_classes(str(tmp_path / "names.json"))


def test_scores_do_not_depend_on_it_and_tables_have_one_line(named, name):
    """Published ground truth can be scored whatever its class names are."""
    dataset = load_ground_truth_file(named / "annotations" / "instances_train.json")
    assert len(dataset.arrays["labels"]) == 1
    assert dataset.classes[0].splitlines() == ([dataset.classes[0]] if name else [])
